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

LISTS = ("policies", "hardware", "models", "scenarios", "experiments", "cases")


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
    _single_runs(verbs)
    _many_runs(verbs)
    _about_runs(verbs)
    _about_files(verbs)
    return parser


def _single_runs(verbs: Any) -> None:
    run = _verb(verbs, "run", _run, "run a scenario; a result.json repeats its run")
    _scenario_options(run)
    run.add_argument("--policy", help="take this policy instead of the scenario's (a name, or module:Class)")
    run.add_argument("--out", metavar="DIR", help="directory of the results (default: runs/SCENARIO-POLICY)")
    run.add_argument("--trace", metavar="FILE", help="write a timeline that Perfetto opens (.json.gz)")
    stretch = "keep only this stretch of simulated time of the timeline, such as '1 s..1.2 s'"
    run.add_argument("--trace-window", metavar="START..END", help=stretch)
    spread = "also run N machines drawn from the spreads of the values: 5-95 %% of every metric, and what drives them"
    run.add_argument("--uncertainty", type=int, metavar="N", help=spread)
    compare = _verb(verbs, "compare", _compare, "run several policies on the same requests and rank them")
    _scenario_options(compare)
    compare.add_argument(
        "--policies", help="names with commas between them, or 'all' (default: the scenario's `compare`, else all)"
    )
    compare.add_argument("--out", metavar="DIR", help="directory for the comparison and each run's results (default: none)")
    compare.add_argument("--jobs", type=int, metavar="N", help="run policies in N processes (default: one for each core)")


def _many_runs(verbs: Any) -> None:
    sweep = _verb(verbs, "sweep", _sweep, "run an experiment, in parallel; goes on where it was stopped")
    told = "a YAML file, the name of a shipped experiment, or the experiment.json of a sweep, which repeats it"
    sweep.add_argument("experiment", metavar="EXPERIMENT", help=told)
    sweep.add_argument(
        "--out", metavar="DIR", help="directory of points and table, kept and added to (default: runs/sweep-NAME)"
    )
    _where_options(sweep)
    sweep.add_argument("--shard", metavar="I/N", help="run one of N parts; without it, all that is left, and the table")
    sweep.add_argument("--json", action="store_true", help="one JSON document on standard output: the answer")
    optimize = _verb(verbs, "optimize", _optimize, "search the best values of an experiment's axes; Pareto front")
    optimize.add_argument("experiment", metavar="EXPERIMENT", help="a YAML file, or the name of a shipped experiment")
    optimize.add_argument("--out", metavar="DIR", help="directory of points and table, kept and added to (default: none)")
    _where_options(optimize)
    optimize.add_argument("--rounds", type=int, default=4, metavar="N", help="how often the search looks closer (default: 4)")
    optimize.add_argument("--json", action="store_true", help="one JSON document on standard output: the answer")


def _about_runs(verbs: Any) -> None:
    report = _verb(verbs, "report", _report, "one HTML page for the directory of a run, a comparison or a sweep")
    report.add_argument("directory", metavar="DIR", help="what run, compare --out or sweep has written")
    report.add_argument("--out", metavar="FILE", help="the page (default: DIR/report.html)")
    explain = _verb(verbs, "explain", _explain, "what fits where, rooflines and break-even points, before anything runs")
    _scenario_options(explain)
    explain.add_argument("--policy", help="take this policy instead of the scenario's")
    reproduce = _verb(verbs, "reproduce", _reproduce, "published numbers beside simulated ones; exit 1 outside a tolerance")
    reproduce.add_argument("ids", nargs="*", metavar="ID", help="cases (default: all)")
    reproduce.add_argument("--out", metavar="DIR", help="directory for tables and figures")
    reproduce.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _about_files(verbs: Any) -> None:
    calibrate = _verb(verbs, "calibrate", _calibrate, "measure this machine and write its hardware profile")
    calibrate.add_argument("--out", metavar="FILE", default="calibrated.yaml", help="the profile (default: calibrated.yaml)")
    calibrate.add_argument("--minutes", type=float, default=2.0, metavar="N", help="how long it may measure (default: 2)")
    calibrate.add_argument("--gpu", default="rtx-4090", metavar="NAME", help="profile of the GPU to write where none is found")
    imports = _verb(verbs, "import", _import, "turn a trace of another tool into a file that workloads read")
    imports.add_argument("format", metavar="FORMAT", help="azure, mooncake (requests); vllm, sglang, sglang-counts (routing)")
    imports.add_argument("file", metavar="FILE", help="what the other tool wrote, as it is or packed by gzip")
    imports.add_argument("--out", metavar="FILE", required=True, help="a .csv for requests and counts, an .npz for routing")
    imports.add_argument("--model", metavar="NAME", help="the model whose routing it is, or its config.json")
    check = _verb(verbs, "check", _check, "every mistake in scenario, experiment and profile files at once")
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument("--json", action="store_true", help="one JSON document on standard output")
    listing = _verb(verbs, "list", _list, "what there is: policies, hardware, models, scenarios, experiments, cases")
    listing.add_argument("what", choices=LISTS)
    listing.add_argument("--json", action="store_true", help="one JSON document on standard output")
    schema = _verb(verbs, "schema", _schema, "JSON Schema of scenario or experiment files, for editors")
    schema.add_argument("what", nargs="?", choices=("scenario", "experiment"), default="scenario", help="(default: scenario)")


def _verb(verbs: Any, name: str, action: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(verb=action)
    return parser


def _scenario_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", metavar="SCENARIO", help="a YAML file, the name of a shipped scenario, or a result.json")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one value; later ones win")
    parser.add_argument("--seed", type=int, help="seed of every random stream")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _where_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, metavar="N", help="run points in N processes (default: one for each core)")
    parser.add_argument("--dask", metavar="ADDRESS", help="run points on the Dask cluster at ADDRESS, such as tcp://host:8786")


def _load(options: argparse.Namespace) -> Any:
    from moesim.scenario import load

    return load(options.scenario, sets=options.set, policy=getattr(options, "policy", None), seed=options.seed)


def _run(options: argparse.Namespace) -> int:
    from moesim.results.table import run_table
    from moesim.scenario.catalogue import shown
    from moesim.scenario.run import out_directory, run_loaded

    this = _load(options)
    spread = None if options.uncertainty is None else _uncertainty(options, this)
    with bar("simulating", "tok") as progress:
        result = run_loaded(
            this,
            timeline=options.trace is not None,
            window=options.trace_window,
            progress=progress,
            command=options.command,
        )
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
        f"\nresults in {shown(place)}"
        + (f", timeline in {options.trace} (open it at https://ui.perfetto.dev)" if options.trace else "")
    )
    return 0


def _uncertainty(options: argparse.Namespace, this: Any) -> Any:
    from moesim.experiment.uncertainty import study

    with bar("drawing", "machine") as progress:
        return study(this, options.uncertainty, progress=progress)


def _compare(options: argparse.Namespace) -> int:
    from moesim.experiment.compared import compare_in
    from moesim.results.compare import compare
    from moesim.results.table import comparison_table
    from moesim.scenario.run import save_comparison

    this = _load(options)
    names = options.policies.split(",") if options.policies else list(this.scenario.compare) or ["all"]
    with bar("comparing", "policy") as progress:
        results, refused = compare_in(
            this, names, jobs=options.jobs, command=options.command, started=lambda _name, done, total: progress(done, total)
        )
    ranked = compare(results)
    if options.out is not None:
        save_comparison(options.out, {**ranked, "refused": refused}, results)
    if options.json:
        _print_json(ranked)
        return 0
    print(comparison_table(ranked))
    for name, reason in refused.items():
        print(f"{name} cannot run here: {reason}")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from moesim.experiment.plan import plan
    from moesim.experiment.sweep import run_plan, shard

    part = None if options.shard is None else shard(options.shard)
    this = plan(options.experiment)
    out = options.out or f"runs/sweep-{this.experiment.name}"
    try:
        with bar("sweeping", "point") as progress:
            result = run_plan(this, out=out, jobs=options.jobs, dask=options.dask, part=part, progress=progress)
    except KeyboardInterrupt:
        print(f"interrupted; the points that are done are in {out}, and the same command goes on from there", file=sys.stderr)
        return 130
    if result is None:
        text = f"part {options.shard} is done; the same command without --shard runs what is left and writes the table"
        return _said(options, {"experiment": this.experiment.name, "shard": options.shard}, text)
    text = f"{result}\n\n{len(this.rows)} points in {out}"
    return _said(options, result.answer, text) or int(result.answer["points"]["failed"] > 0)


def _said(options: argparse.Namespace, document: Any, text: str) -> int:
    if options.json:
        _print_json(document)
    else:
        print(text)
    return 0


def _optimize(options: argparse.Namespace) -> int:
    from moesim.experiment.optimum import optimize

    with bar("searching", "point") as progress:
        found = optimize(
            options.experiment, out=options.out, rounds=options.rounds, jobs=options.jobs, dask=options.dask, progress=progress
        )
    return _said(options, found.answer, str(found)) or int(found.answer["points"]["failed"] > 0)


def _report(options: argparse.Namespace) -> int:
    from moesim.report.page import write_page

    print(f"page in {write_page(options.directory, options.out)}")
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


def _import(options: argparse.Namespace) -> int:
    from pathlib import Path

    from moesim.workload.foreign import import_trace

    model = None
    if options.model is not None:
        from moesim.scenario.resolve import named_model

        model = named_model(options.model)
    imported = import_trace(options.format, Path(options.file), Path(options.out), model)
    print(f"{imported.rows:,} {imported.what} in {options.out}")
    for note in imported.notes:
        print(f"note: {note}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from moesim.experiment.plan import judge
    from moesim.scenario import check

    report = check(options.files, experiment=judge)
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
    if options.what == "experiment":
        from moesim.experiment.editors import json_schema
    else:
        from moesim.scenario import json_schema

    _print_json(json_schema())
    return 0


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))
