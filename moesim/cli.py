"""The command line: parses, calls the verb, prints. Nothing heavy is imported until a command needs it.

Exit status: 0 done, 1 a check or tolerance failed, 2 wrong input (nothing written).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import moesim
from moesim.errors import InputError, MoesimError
from moesim.progress import bar

__all__ = ["main"]

LISTS = ("policies", "hardware", "models", "scenarios", "cases")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    options.command = ["moesim", *words]
    logging.basicConfig(format="%(message)s", level=logging.INFO if options.verbose else logging.WARNING, stream=sys.stderr)
    try:
        return int(options.verb(options))
    except InputError as error:
        for mistake in error.mistakes:
            print(mistake, file=sys.stderr)
        return 2
    except MoesimError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moesim", description="Simulates Mixture-of-Experts inference on GPUs, AMX CPUs, CXL memory and near-data units."
    )
    parser.add_argument("--version", action="version", version=f"moesim {moesim.__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is overridden and read")
    verbs = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    run = _verb(verbs, "run", _run, "run a scenario; a result.json repeats its run")
    _scenario_options(run)
    run.add_argument("--policy", help="take this policy instead of the scenario's (a name, or module:Class)")
    run.add_argument("--out", metavar="DIR", help="directory of the results (default: runs/SCENARIO-POLICY)")
    run.add_argument("--trace", metavar="FILE", help="write a timeline that Perfetto opens (.json.gz)")
    spread = "also run N machines drawn from the spreads of the values: 5-95 %% of every metric, and what drives them"
    run.add_argument("--uncertainty", type=int, metavar="N", help=spread)
    compare = _verb(verbs, "compare", _compare, "run several policies on the same requests and rank them")
    _scenario_options(compare)
    compare.add_argument(
        "--policies", help="names with commas between them, or 'all' (default: the scenario's `compare`, else all)"
    )
    compare.add_argument("--out", metavar="DIR", help="directory for the comparison and each run's results (default: none)")
    explain = _verb(verbs, "explain", _explain, "what fits where, rooflines and break-even points, before anything runs")
    _scenario_options(explain)
    explain.add_argument("--policy", help="take this policy instead of the scenario's")
    reproduce = _verb(verbs, "reproduce", _reproduce, "published numbers beside simulated ones; exit 1 outside a tolerance")
    reproduce.add_argument("ids", nargs="*", metavar="ID", help="cases (default: all)")
    reproduce.add_argument("--out", metavar="DIR", help="directory for tables and figures")
    reproduce.add_argument("--json", action="store_true", help="one JSON document on standard output")
    calibrate = _verb(verbs, "calibrate", _calibrate, "measure this machine and write its hardware profile")
    calibrate.add_argument("--out", metavar="FILE", default="calibrated.yaml", help="the profile (default: calibrated.yaml)")
    calibrate.add_argument("--minutes", type=float, default=2.0, metavar="N", help="how long it may measure (default: 2)")
    calibrate.add_argument("--gpu", default="rtx-4090", metavar="NAME", help="profile of the GPU to write where none is found")
    check = _verb(verbs, "check", _check, "every mistake in scenario and profile files at once")
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument("--json", action="store_true", help="one JSON document on standard output")
    listing = _verb(verbs, "list", _list, "what there is: policies, hardware, models, scenarios, cases")
    listing.add_argument("what", choices=LISTS)
    listing.add_argument("--json", action="store_true", help="one JSON document on standard output")
    _verb(verbs, "schema", _schema, "JSON Schema of scenario files, for editors")
    return parser


def _verb(verbs: Any, name: str, action: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(verb=action)
    return parser


def _scenario_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", metavar="SCENARIO", help="a YAML file, the name of a shipped scenario, or a result.json")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one value; later ones win")
    parser.add_argument("--seed", type=int, help="seed of every random stream")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _load(options: argparse.Namespace) -> Any:
    from moesim.scenario import load

    return load(options.scenario, sets=options.set, policy=getattr(options, "policy", None), seed=options.seed)


def _run(options: argparse.Namespace) -> int:
    from moesim.results.table import run_table
    from moesim.scenario.run import out_directory, run_loaded

    this = _load(options)
    spread = None if options.uncertainty is None else _uncertainty(options, this)
    with bar("simulating", "tok") as progress:
        result = run_loaded(this, timeline=options.trace is not None, progress=progress, command=options.command)
    if spread is not None:
        spread.enter(result)
    place = result.save(out_directory(this, result.summary["policy"], options.out), timeline=this.scenario.simulation.timeline)
    if options.trace is not None:
        from moesim.report.timeline import write_trace

        write_trace(result, options.trace)
    if options.json:
        _print_json(result.summary if spread is None else {**result.summary, "uncertainty": spread.summary()})
        return 0
    print(run_table(result))
    if spread is not None:
        print(f"\n{spread.table(result.summary)}")
    print(
        f"\nresults in {place}"
        + (f", timeline in {options.trace} (open it at https://ui.perfetto.dev)" if options.trace else "")
    )
    return 0


def _uncertainty(options: argparse.Namespace, this: Any) -> Any:
    from moesim.experiment.uncertainty import study

    with bar("drawing", "machine") as progress:
        return study(this, options.uncertainty, progress=progress)


def _compare(options: argparse.Namespace) -> int:
    from moesim.results.compare import compare
    from moesim.results.table import comparison_table
    from moesim.scenario.run import compare_loaded, save_comparison

    this = _load(options)
    names = options.policies.split(",") if options.policies else list(this.scenario.compare) or ["all"]
    with bar("comparing", "policy") as progress:
        results, refused = compare_loaded(
            this, names, started=lambda _name, number, total: progress(number, total), command=options.command
        )
    ranked = compare(results)
    if options.out is not None:
        save_comparison(options.out, ranked, results)
    if options.json:
        _print_json(ranked)
        return 0
    print(comparison_table(ranked))
    for name, reason in refused.items():
        print(f"{name} cannot run here: {reason}")
    return 0


def _explain(options: argparse.Namespace) -> int:
    from moesim.scenario.explain import explain, to_json, to_text

    explanation = explain(_load(options))
    if options.json:
        _print_json(to_json(explanation))
    else:
        print(to_text(explanation))
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from moesim import validation

    with bar("reproducing", "case") as progress:
        results = validation.reproduce(options.ids, progress=progress, out=options.out)
    if options.json:
        _print_json(validation.to_json(results))
    else:
        print(validation.to_text(results))
    return int(validation.exit_status(results))


def _calibrate(options: argparse.Namespace) -> int:
    from moesim.calibrate import calibrate

    with bar("measuring", "s") as progress:
        outcome = calibrate(options.out, minutes=options.minutes, gpu=options.gpu, progress=progress)
    print(f"{outcome.report}\n\nprofile in {outcome.path}, after {outcome.seconds:.0f} s; name it as `hardware:` of a scenario")
    return 0


def _check(options: argparse.Namespace) -> int:
    from moesim.scenario import check

    report = check(options.files)
    wrong = sum(len(file["errors"]) for file in report["files"])
    if options.json:
        _print_json(report)
    else:
        for file in report["files"]:
            for error in file["errors"]:
                place = f"{file['file']}:{error['line']}:{error['column']}" if error["line"] else file["file"]
                print(f"{place}: {error['path'] + ': ' if error['path'] else ''}{error['message']}")
        print(
            f"{len(report['files'])} file(s), {wrong} mistake(s)" if wrong else f"{len(report['files'])} file(s), no mistakes"
        )
    return 1 if wrong else 0


def _list(options: argparse.Namespace) -> int:
    entries = _entries(options.what)
    if options.json:
        _print_json([{"name": e["name"], "summary": e["summary"], "source": e["source"]} for e in entries])
        return 0
    width = max((len(entry["name"]) for entry in entries), default=0)
    for entry in entries:
        print(f"{entry['name']:{width}}  {entry['summary']}".rstrip())
    return 0


def _entries(what: str) -> list[dict[str, str]]:
    if what == "cases":
        from moesim import validation

        return [dict(entry) for entry in validation.entries()]
    from moesim.scenario import catalogue

    return [{"name": e.name, "summary": e.summary, "source": e.source} for e in catalogue.names(what)]


def _schema(options: argparse.Namespace) -> int:
    from moesim.scenario import json_schema

    _print_json(json_schema())
    return 0


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))
