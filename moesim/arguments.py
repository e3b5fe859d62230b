"""Owns the words that each command takes: its arguments, their defaults and their help.

Knows no command: what a name does is handed in.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moesim.terminal import Parser
from moesim.version import __version__

__all__ = ["LISTS", "parser_of"]

LISTS = ("policies", "machines", "parts", "runtimes", "models", "scenarios", "experiments", "cases")
"""What `moesim list` lists."""
Verb = Callable[[argparse.Namespace], int]


def parser_of(verbs: Mapping[str, Verb], words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of the command line; the options of command NAME have `verbs[NAME]` as their `verb`.

    Where the first of `words` is a command, it knows that and few others, which is sooner done.
    """
    parser = Parser(
        prog="moesim", description="Simulates Mixture-of-Experts inference on GPUs, AMX CPUs, CXL memory and near-data units."
    )
    parser.add_argument("--version", action="version", version=f"moesim {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is overridden and read")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    groups = [group for group in _GROUPS if words and words[0] in group] or _GROUPS
    for group in groups:
        _GROUPS[group](commands)
    for name, command in commands.choices.items():
        command.set_defaults(verb=verbs[name])
    return parser


def _single_runs(commands: Any) -> None:
    run = _command(commands, "run", "run a scenario; a result.json repeats its run")
    _scenario_options(run)
    run.add_argument("--policy", help="take this policy instead of the scenario's (a name, or module:Class)")
    run.add_argument("--out", metavar="DIR", help="directory of the results (default: runs/SCENARIO-POLICY)")
    run.add_argument("--trace", metavar="FILE", help="write a timeline that Perfetto opens (.json.gz)")
    stretch = "keep only this stretch of simulated time of the timeline, such as '1 s..1.2 s'"
    run.add_argument("--trace-window", metavar="START..END", help=stretch)
    spread = "also run N machines drawn from the spreads of the values: 5-95 %% of every metric, and what drives them"
    run.add_argument("--uncertainty", type=int, metavar="N", help=spread)
    upgrade = "also run it with each part FACTOR times as good, one at a time: what to buy next (below 1: what could be spared)"
    run.add_argument("--better", type=float, metavar="FACTOR", help=upgrade)
    compare = _command(commands, "compare", "run several policies on the same requests and rank them")
    _scenario_options(compare)
    text = "names with commas between them, or 'all' (default: the scenario's `compare`, else all)"
    compare.add_argument("--policies", type=_names, help=text)
    compare.add_argument("--out", metavar="DIR", help="directory for the comparison and each run's results (default: none)")
    compare.add_argument("--jobs", type=int, metavar="N", help="run policies in N processes (default: one for each core)")


def _many_runs(commands: Any) -> None:
    sweep = _command(commands, "sweep", "run an experiment, in parallel; resumes where it stopped")
    text = "a YAML file, the name of a shipped experiment, or the experiment.json of a sweep, which repeats it"
    sweep.add_argument("experiment", metavar="EXPERIMENT", help=text)
    sweep.add_argument(
        "--out", metavar="DIR", help="directory of points and table, kept and added to (default: runs/sweep-NAME)"
    )
    _where_options(sweep)
    sweep.add_argument("--shard", metavar="I/N", help="run one of N parts; without it, all that is left, and the table")
    sweep.add_argument("--json", action="store_true", help="one JSON document on standard output: the answer")
    optimize = _command(commands, "optimize", "search the best values of an experiment's axes; Pareto front")
    optimize.add_argument("experiment", metavar="EXPERIMENT", help="a YAML file, or the name of a shipped experiment")
    optimize.add_argument("--out", metavar="DIR", help="directory of points and table, kept and added to (default: none)")
    _where_options(optimize)
    optimize.add_argument("--rounds", type=int, default=4, metavar="N", help="how often the search looks closer (default: 4)")
    optimize.add_argument("--json", action="store_true", help="one JSON document on standard output: the answer")


def _about_runs(commands: Any) -> None:
    report = _command(commands, "report", "one HTML page for the directory of a run, a comparison or a sweep")
    report.add_argument("directory", metavar="DIR", help="what run, compare --out or sweep has written")
    report.add_argument("--out", metavar="FILE", help="the page (default: DIR/report.html)")
    report.add_argument(
        "--figures", metavar="DIR", help="instead of the page, each of its figures as PDF, SVG and PNG for print"
    )
    _width_option(report)
    report.set_defaults(plugins=False)
    export = _command(commands, "export", "the placement of a run as flags and files of a serving program")
    export.add_argument("tool", metavar="TOOL", help="llama-cpp, ktransformers, vllm or sglang")
    export.add_argument("run", metavar="RUN", help="the directory of a run, or its result.json")
    export.add_argument("--out", metavar="DIR", help="write the command and the files that it names there (default: none)")
    export.add_argument("--json", action="store_true", help="one JSON document on standard output")
    _cache_option(export)
    explain = _command(commands, "explain", "what fits where, rooflines and break-even points, before anything runs")
    _scenario_options(explain)
    explain.add_argument("--policy", help="take this policy instead of the scenario's")
    part = "only the sections whose heading has this in it, such as 'fits' or 'roofline'; repeatable"
    explain.add_argument("--section", action="append", default=[], metavar="WORDS", help=part)
    _plugin_option(explain)
    reproduce = _command(commands, "reproduce", "published numbers beside simulated ones; exit 1 outside a tolerance")
    reproduce.add_argument("ids", nargs="*", metavar="ID", help="cases (default: all)")
    reproduce.add_argument("--out", metavar="DIR", help="directory for tables and figures")
    reproduce.add_argument("--json", action="store_true", help="one JSON document on standard output")
    _cache_option(reproduce)
    cache = _command(commands, "cache", "what is kept between runs: drawn routing and compiled code")
    cache.add_argument("--clear", action="store_true", help="remove all of it; it is made again when it is needed")
    cache.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _about_files(commands: Any) -> None:
    calibrate = _command(commands, "calibrate", "measure this machine and write its hardware profile")
    calibrate.add_argument("--out", metavar="FILE", default="calibrated.yaml", help="the profile (default: calibrated.yaml)")
    calibrate.add_argument("--minutes", type=float, default=2.0, metavar="N", help="how long it may measure (default: 2)")
    calibrate.add_argument("--gpu", default="rtx-4090", metavar="NAME", help="profile of the GPU to write where none is found")
    imports = _command(commands, "import", "turn a trace of another tool into a file that workloads read")
    imports.add_argument("format", metavar="FORMAT", help="of requests or of routing, see docs/traces.md")
    imports.add_argument("file", metavar="FILE", help="what the other tool wrote, as it is or packed by gzip")
    imports.add_argument("--out", metavar="FILE", required=True, help="a .csv for requests and counts, an .npz for routing")
    imports.add_argument("--model", metavar="NAME", help="the model whose routing it is, or its config.json")
    trace = _command(commands, "trace", "what a record of routing shows: skew, reuse, working set, caches, next layer, drift")
    trace.add_argument("file", metavar="FILE", help="an .npz that `moesim import` wrote")
    trace.add_argument("--figures", metavar="DIR", help="write a figure of each as PDF, SVG and PNG there")
    _width_option(trace)
    trace.add_argument("--json", action="store_true", help="one JSON document on standard output")
    check = _command(commands, "check", "every mistake in scenario, experiment and profile files at once")
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument("--json", action="store_true", help="one JSON document on standard output")
    _plugin_option(check)
    listing = _command(
        commands,
        "list",
        "what there is to name in files and on the command line",
    )
    listing.add_argument("what", choices=LISTS)
    listing.add_argument("--json", action="store_true", help="one JSON document on standard output")
    _plugin_option(listing)
    completion = _command(commands, "completion", "a script that completes commands, options and names in your shell")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.add_argument("--names", metavar="LIST", help=argparse.SUPPRESS)
    schema = _command(commands, "schema", "JSON Schema of scenario or experiment files, for editors")
    schema.add_argument("what", nargs="?", choices=("scenario", "experiment"), default="scenario", help="(default: scenario)")
    _plugin_option(schema)


_GROUPS = {
    ("run", "compare"): _single_runs,
    ("sweep", "optimize"): _many_runs,
    ("report", "export", "explain", "reproduce", "cache"): _about_runs,
    ("calibrate", "import", "trace", "check", "list", "completion", "schema"): _about_files,
}


def _width_option(parser: argparse.ArgumentParser) -> None:
    text = "of figures: column (3.33 in), page (7 in), or inches (default: column)"
    parser.add_argument("--width", type=_width, metavar="WIDTH", help=text)


def _width(text: str) -> float | str:
    """Inches, or the name of a width."""
    try:
        return float(text)
    except ValueError:
        return text


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    return parser


def _scenario_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", metavar="SCENARIO", help="a YAML file, the name of a shipped scenario, or a result.json")
    _set_option(parser)
    parser.add_argument("--seed", type=int, help="seed of every random stream")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    _cache_option(parser)


def _set_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one value; later ones win")


def _plugin_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugins", action="store_true", help="import plug-ins, which runs their code (default: leave them out)"
    )


def _where_options(parser: argparse.ArgumentParser) -> None:
    _set_option(parser)
    parser.add_argument("--jobs", type=int, metavar="N", help="run points in N processes (default: one for each core)")
    parser.add_argument("--dask", metavar="ADDRESS", help="run points on the Dask cluster at ADDRESS, such as tcp://host:8786")
    _cache_option(parser)


def _cache_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-cache", action="store_true", help="draw all routing anew and keep none (see `moesim cache`)")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []
