"""The command line: parses, calls the verb, prints. Nothing heavy is imported until a command needs it.

Exit status: 0 done, 1 a check or tolerance failed, 2 wrong input (nothing written) or no place for the output, 130 interrupted
(what is finished is kept), 141 the reader of standard output has gone.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from moesim import interrupts
from moesim.arguments import LISTS, parser_of
from moesim.errors import InputError, Mistake
from moesim.neutral import line
from moesim.progress import bar
from moesim.terminal import Formatter, finished, plain_warnings, say, say_json, spare_start_up

__all__ = ["LISTS", "entries", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default that of the process; returns its exit status."""
    if arguments is None:
        spare_start_up()
    words = list(sys.argv[1:] if arguments is None else arguments)
    return finished(lambda: _command(words))


def _command(words: list[str]) -> int:
    options = _parser(words).parse_args(words)
    options.command = ["moesim", *words]
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it would look for some in every package that is installed
    if options.verb is not _calibrate:  # which measures what all cores can do
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread per core, which no run repays
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, handlers=[handler])
    if getattr(options, "no_cache", False):
        from moesim.cache import without_routing

        options.verb = without_routing()(options.verb)
    from moesim import plugins

    with plugins.closed(not getattr(options, "plugins", True)), plain_warnings():
        return int(options.verb(options))


@contextmanager
def _keeping(label: str, place: Any) -> Iterator[None]:
    """Where the block is interrupted, says what of it is kept at `place`, if that is there by then."""
    try:
        with interrupts.raised():
            yield
    except KeyboardInterrupt:
        saved = (f"{label} in {place}",) if Path(place).exists() else ()
        raise KeyboardInterrupt(*saved) from None


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    return parser_of(
        {
            "run": _run,
            "compare": _compare,
            "sweep": _sweep,
            "optimize": _optimize,
            "report": _report,
            "explain": _explain,
            "export": _export,
            "reproduce": _reproduce,
            "cache": _cache,
            "calibrate": _calibrate,
            "import": _import,
            "trace": _trace,
            "check": _check,
            "list": _list,
            "completion": _completion,
            "schema": _schema,
        },
        words,
    )


def _load(options: argparse.Namespace) -> Any:
    from moesim.scenario import load

    return load(options.scenario, sets=options.set, policy=getattr(options, "policy", None), seed=options.seed)


def _run(options: argparse.Namespace) -> int:
    from moesim.results.store import refuse_foreign
    from moesim.runs.run import RunOptions, out_directory, run_loaded
    from moesim.runs.studies import studies
    from moesim.scenario.catalogue import shown
    from moesim.writing import file_target

    loaded_scenario = _load(options)
    refuse_foreign(out_directory(loaded_scenario, options.out))
    if options.trace is not None:
        file_target(options.trace)
    beside = studies(loaded_scenario, options.uncertainty, options.better)
    with bar("simulating", "tokens") as progress:
        result = run_loaded(
            loaded_scenario,
            RunOptions(
                timeline=options.trace is not None, window=options.trace_window, progress=progress, command=options.command
            ),
        )
    for study in beside.values():
        study.enter(result)
    place = result.save(out_directory(loaded_scenario, options.out), timeline=loaded_scenario.scenario.simulation.timeline)
    if options.trace is not None:
        from moesim.results.timeline import write_trace

        write_trace(result, options.trace)
    if options.json:
        say_json({**result.summary, **{name: study.summary() for name, study in beside.items()}})
        return 0
    from moesim.results.table import run_table

    tables = "".join(f"\n\n{study.table(result.summary)}" for study in beside.values())
    timeline = f", timeline in {options.trace} (open it at https://ui.perfetto.dev)" if options.trace else ""
    say(f"{run_table(result)}{tables}\n\nresults in {shown(place)}{timeline}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from moesim.results.compare import compare
    from moesim.results.marks import idle_notes
    from moesim.results.table import comparison_table
    from moesim.runs.compare import compare_in
    from moesim.runs.run import compared_directory, comparison_target, save_comparison

    loaded_scenario, out = _load(options), options.out
    names = options.policies or list(loaded_scenario.scenario.compare) or ["all"]
    if out is not None:
        comparison_target(out, loaded_scenario, names)

    def keep(result: Any) -> None:
        if out is not None:
            result.save(compared_directory(out, result.summary["policy"]))

    with bar("comparing", "policies") as progress, _keeping("the runs that are done are", out) if out else nullcontext():
        results, refused = compare_in(
            loaded_scenario,
            names,
            jobs=options.jobs,
            command=options.command,
            started=lambda _name, done, total: progress(done, total),
            finished=keep,
        )
    ranked = compare(results)
    if out is not None:
        save_comparison(out, {**ranked, "refused": refused}, results, stored=True)
    if options.json:
        say_json(ranked)
        return 0
    idle = idle_notes({result.summary["policy"]: result.notes for result in results})
    sentences = [*idle, *(f"{name} cannot run here: {line(reason)}" for name, reason in refused.items())]
    say("\n".join([comparison_table(ranked), *sentences]))
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from moesim.experiment.plan import plan
    from moesim.experiment.sweep import run_plan, shard
    from moesim.results.sweeps.answer_file import document
    from moesim.units import format_count

    part = None if options.shard is None else shard(options.shard)
    sweep_plan = plan(options.experiment, options.set)
    out = options.out or f"runs/sweep-{sweep_plan.experiment.name}"
    message = "the same command resumes; the points that are done are"
    with bar("sweeping", "points") as progress, _keeping(message, out):
        result = run_plan(sweep_plan, out=out, jobs=options.jobs, dask=options.dask, part=part, progress=progress)
    if result is None:
        text = f"part {options.shard} is done; the same command without --shard runs what is left and writes the table"
        return _said(options, {"experiment": sweep_plan.experiment.name, "shard": options.shard}, text)
    text = f"{result}\n\n{format_count(len(sweep_plan.rows), 'point')} in {out}"
    return _said(options, document(result.answer), text) or int(result.answer.points.failed > 0)


def _said(options: argparse.Namespace, document: Any, text: str) -> int:
    if options.json:
        say_json(document)
    else:
        say(text)
    return 0


def _optimize(options: argparse.Namespace) -> int:
    from moesim.experiment.optimum import optimize
    from moesim.results.sweeps.answer_file import document

    guard = _keeping("the same command resumes; the points that are done are", options.out) if options.out else nullcontext()
    with bar("searching", "points") as progress, guard:
        search = optimize(
            options.experiment,
            out=options.out,
            rounds=options.rounds,
            jobs=options.jobs,
            dask=options.dask,
            progress=progress,
            sets=options.set,
        )
    return _said(options, document(search.answer), str(search)) or int(search.answer.points.failed > 0)


def _report(options: argparse.Namespace) -> int:
    width = _width(options)
    if options.figures is None:
        from moesim.report.page import write_page

        say(f"page in {write_page(options.directory, options.out)}")
        return 0
    from moesim.report.papers import save_figures

    files = save_figures(options.directory, options.figures, width=width)
    say(_drawn(options.figures, dict.fromkeys(path.stem for path in files)))
    return 0


def _width(options: argparse.Namespace) -> Any:
    """Of the figures; InputError for one without figures."""
    if options.width is not None and options.figures is None:
        raise InputError("--width is the width of figures for print; say where they go with --figures DIR")
    return options.width if options.width is not None else "column"


def _drawn(folder: str, names: Iterable[str]) -> str:
    return f"figures in {folder}, each as .pdf, .svg and .png: {', '.join(names)}"


def _explain(options: argparse.Namespace) -> int:
    from moesim.explain.explain import explain, load_known, to_json, to_text

    loaded_scenario, unasked = load_known(options.scenario, sets=options.set, policy=options.policy, seed=options.seed)
    explanation = explain(loaded_scenario, unasked=unasked)
    if options.section:
        explanation = explanation.only(options.section)
    if options.json:
        say_json(to_json(explanation))
    else:
        say(to_text(explanation))
    return 0


def _export(options: argparse.Namespace) -> int:
    from moesim.exports.again import export

    exported = export(options.tool, Path(options.run), out=options.out)
    files = f"\n\nfiles in {options.out}: {', '.join(['command.sh', *exported.files])}" if options.out is not None else ""
    missing = "" if files or not exported.files else "\n\n--out DIR writes the files that it names"
    return _said(options, exported.document, f"{exported}{files}{missing}")


def _reproduce(options: argparse.Namespace) -> int:
    from moesim import validation

    guard = _keeping("the cases that are done are", options.out) if options.out else nullcontext()
    with bar("reproducing", "cases") as progress, guard:
        results = validation.reproduce(options.ids, progress=progress, out=options.out)
    if options.json:
        say_json(validation.to_json(results))
    else:
        say(validation.to_text(results))
    return int(validation.exit_status(results))


def _cache(options: argparse.Namespace) -> int:
    from moesim.cache import contents, to_text

    cached = contents(clear=options.clear)
    return _said(options, cached, to_text(cached))


def _calibrate(options: argparse.Namespace) -> int:
    from moesim.calibrate import calibrate

    with bar("measuring", "seconds") as progress:
        outcome = calibrate(options.out, minutes=options.minutes, gpu=options.gpu, progress=progress)
    say(f"{outcome.report}\n\nprofile in {outcome.path}, after {outcome.seconds:.0f} s; name it as `hardware:` of a scenario")
    return 0


def _import(options: argparse.Namespace) -> int:
    from moesim.workload.foreign import import_trace

    model = None
    if options.model is not None:
        from moesim.scenario.resolve import named_model

        model = named_model(options.model)
    imported = import_trace(options.format, Path(options.file), Path(options.out), model)
    say("\n".join([f"{imported.rows:,} {imported.unit} in {options.out}", *(f"note: {note}" for note in imported.notes)]))
    return 0


def _trace(options: argparse.Namespace) -> int:
    from moesim.results.table import align
    from moesim.workload.statistics.summary import lines, summary
    from moesim.writing import folder_target

    width = _width(options)
    if options.figures is not None:
        folder_target(options.figures)
    document = summary(Path(options.file))
    names: dict[str, None] = {}
    if options.figures is not None:
        from moesim.report.figures_routing import save_routing

        names = dict.fromkeys(path.stem for path in save_routing(document, Path(options.figures), width=width))
    if options.json:
        say_json(document)
        return 0
    head = "{tokens:,} tokens ({phase}) of {sequences:,} sequences, {moe_layers} MoE layers of {experts} experts, top-{top_k}"
    blocks = ["\n".join((heading, *align(columns, rows))) for heading, columns, rows in lines(document)]
    blocks += [_drawn(options.figures, names)] if names else []
    say("\n\n".join([head.format(**document), *blocks]))
    return 0


def _check(options: argparse.Namespace) -> int:
    from moesim.experiment.plan import judge
    from moesim.scenario import check
    from moesim.units import format_count

    report = check(options.files, experiment=judge)
    wrong = sum(len(file["errors"]) for file in report["files"])
    if options.json:
        say_json(report)
        return 1 if wrong else 0
    lines = [
        line(str(Mistake(**entry, file=file["file"])))
        for file in report["files"]
        for entry in (*file["errors"], *file.get("not_judged", ()))
    ]
    lines.append(f"{format_count(len(report['files']), 'file')}, {format_count(wrong, 'mistake') if wrong else 'no mistakes'}")
    say("\n".join(lines))
    return 1 if wrong else 0


def _list(options: argparse.Namespace) -> int:
    items = entries(options.what)
    if options.json:
        say_json([{"name": entry.name, "summary": entry.summary, "source": entry.source} for entry in items])
        return 0
    from moesim.results.marks import LOSSY, marked

    names = {entry: marked(entry.name, lossy=entry.lossy) for entry in items}
    width = max(map(len, names.values()), default=0)
    blocks: dict[str, list[str]] = {}
    for entry in items:
        heading = "bounds, which no system can run" if entry.bound else entry.kind if options.what == "parts" else ""
        blocks.setdefault(heading, []).append(f"{names[entry]:{width}}  {entry.summary}".rstrip())
    notes = [LOSSY] if any(entry.lossy for entry in items) else []
    parts = ["\n".join([*([heading] if heading else []), *blocks[heading]]) for heading in sorted(blocks)]
    say("\n\n".join([*parts, *notes]))
    return 0


def entries(kind: str) -> list[Any]:
    """Everything of one of `LISTS` that can be named; InputError for another word."""
    from moesim.errors import did_you_mean
    from moesim.scenario import catalogue

    if kind not in LISTS:
        raise InputError(Mistake(f"no list of '{kind}'; there are {', '.join(LISTS)}.{did_you_mean(kind, LISTS)}"))
    if kind == "cases":
        from moesim import validation

        return [catalogue.Entry(entry["name"], entry["summary"], entry["source"]) for entry in validation.entries()]
    if kind in ("machines", "parts"):
        return [entry for entry in catalogue.names("hardware") if (entry.kind == "system") is (kind == "machines")]
    return catalogue.names(kind)


def _completion(options: argparse.Namespace) -> int:
    from moesim.completion import script

    say(
        " ".join(entry.name for entry in entries(options.names)) if options.names else script(_parser(), options.shell).rstrip()
    )
    return 0


def _schema(options: argparse.Namespace) -> int:
    if options.what == "experiment":
        from moesim.experiment.editors import json_schema
    else:
        from moesim.scenario import json_schema

    say_json(json_schema())
    return 0
