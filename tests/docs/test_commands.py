"""Every command on every page is one that the program takes, about things that are there.

Commands in the blocks of a page are run by that page's own test. Here all are parsed, those in running text and in tables
too, and the scenarios, experiments, cases and policies that they name are looked up: some take minutes to run.
"""

from __future__ import annotations

import importlib.util
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NamedTuple

import doc_pages
import pytest
from doc_pages import PAGES, ROOT, Block, blocks, shown
from reporting import for_all

from moesim import cli, plugins
from moesim.errors import InputError
from moesim.experiment.plan import read
from moesim.scenario import load
from moesim.validation import registry

PLACEHOLDER = re.compile(r"(?:.*=)?[A-Z]+(?:/[\w.]+)?(?:\.\w+)*")
"""What a reader has to fill in: `SCENARIO`, `I/N`, `DIR/result.json`, `path=FILE.npz`."""
RUN = {
    "README.md": "test_readme.py",
    "exporting.md": "test_exporting.py",
    "figures.md": "test_figures_page.py",
    "extending.md": "test_extending.py",
    "tutorial.md": "test_tutorial.py",
    "scenario-keys.md": "test_scenario_keys_page.py",
    "serving.md": "test_serving_page.py",
}
"""Page with blocks -> the test that runs them."""


class Command(NamedTuple):
    """A command of a page, without the repetitions of it there."""

    page: str
    words: tuple[str, ...]


def _commands() -> list[Command]:
    return list(
        dict.fromkeys(Command(page.name, words) for page in PAGES for words in map(tuple, shown(page.read_text("utf-8"))))
    )


def _verbs() -> dict[str, ArgumentParser]:
    (action,) = (action for action in cli._parser()._actions if isinstance(action.choices, dict))
    return dict(action.choices)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scenarios of the checkout, to which a page adds its own files."""
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@for_all(_commands)
def test_the_command_is_taken_and_what_it_names_is_there(command: Command, reader: Path) -> None:
    _, verb, *rest = command.words if command.words[1:] != ("--help",) else ("moesim", "run", "--help")
    rest = rest[: rest.index(">")] if ">" in rest else rest
    options = {option for action in _verbs()[verb]._actions for option in action.option_strings}
    assert {word for word in rest if word.startswith("--")} <= options
    if all(word.startswith("--") for word in rest) or any(PLACEHOLDER.fullmatch(word) for word in rest):
        return  # the name of a command, or a form to fill in
    parsed = cli._parser().parse_args([verb, *rest])
    for block in blocks(next(path for path in PAGES if path.name == command.page).read_text("utf-8")):
        if block.file is not None:
            (reader / block.file).write_text(block.text, "utf-8")
    _check_names(parsed)


def _check_names(parsed: Namespace) -> None:
    options = vars(parsed)
    if not str(options.get("scenario", "runs/")).startswith("runs/"):
        load(options["scenario"], sets=options["set"], policy=options.get("policy"))
    if "experiment" in options:
        assert read(options["experiment"])[0].child("scenario") is not None
    for name in options.get("policies") or ["all"]:
        assert name == "all" or plugins.find("policies", name, beside=ROOT / "scenarios" / "plugin")
    unknown = set(options.get("ids", ())) - set(registry.ids())
    assert not unknown - doc_pages.pending(), f"no case of the name {sorted(unknown)}"
    for file in options.get("files", ()):
        assert Path(file).is_file()


def test_there_are_many() -> None:
    assert len(_commands()) > 60


@pytest.mark.parametrize(
    "words",
    [["run", "quickstrat"], ["sweep", "skw"], ["reproduce", "flexgen"], ["compare", "quickstart", "--policies", "lru2"]],
)
def test_a_name_that_is_not_there_would_be_reported(words: list[str], reader: Path) -> None:
    with pytest.raises((AssertionError, InputError)):
        _check_names(cli._parser().parse_args(words))


@for_all(PAGES)
def test_modules_that_are_run_exist(page: Path) -> None:
    for name in re.findall(
        r"python3? -m (?!sglang\.|dynamo\.|coverage)([\w.]+)", page.read_text("utf-8")
    ):  # servers of others, and an extra
        assert importlib.util.find_spec(name) is not None


@for_all(PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@for_all(PAGES)
def test_every_page_with_blocks_has_a_test_that_runs_them(page: Path) -> None:
    page_blocks: list[Block] = blocks(page.read_text("utf-8"))
    assert page.read_text("utf-8").count("\n```") == 2 * len(page_blocks), "a fence that is not closed"
    if any(not block.language.startswith("{") for block in page_blocks):  # directives are for the site
        assert page.name in (Path(__file__).parent / RUN[page.name]).read_text("utf-8")


def test_the_readme_lists_all_commands() -> None:
    (listed,) = (block.text for block in blocks(doc_pages.read("README.md"), ""))
    assert sorted(line.split()[1] for line in listed.splitlines()) == sorted(_verbs())
