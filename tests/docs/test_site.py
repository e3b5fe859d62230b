"""The documentation site: what it needs is there. Sphinx itself, an extra, builds and tests its links by `tools/site.py`."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, read
from reporting import for_all

from moesim.scenario import load

LINK = re.compile(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)")


@for_all(PAGES)
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    lost = [link for link in links if not (page.parent / link).exists()]
    assert lost == []


def test_the_index_has_every_page_once() -> None:
    entries = re.findall(r"^([a-z-]+)$", read("docs/index.md"), re.MULTILINE)
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert set(entries) == pages
    assert len(entries) == len(pages)


def test_the_names_of_the_api_page_exist() -> None:
    text = read("docs/api.md")
    for kind, name in re.findall(r"^\.\. auto(module|class|function):: (\S+)$", text, re.MULTILINE):
        place, _, attribute = (name, "", "") if kind == "module" else name.rpartition(".")
        module = importlib.import_module(place)
        assert not attribute or hasattr(module, attribute), name
    assert "automodule:: moesim.api" in text


@pytest.mark.parametrize("name", ["quickstart", "cxl_expert/honest", "serving/mixtral-4bit-poisson", "real/gpt-oss-20b-trace"])
def test_the_gallery_cuts_every_kind_of_scenario_short(name: str) -> None:
    place = importlib.util.spec_from_file_location("site_tool", ROOT / "tools" / "site.py")
    assert place is not None
    assert place.loader is not None
    tool = importlib.util.module_from_spec(place)
    place.loader.exec_module(tool)
    changes = tool.shortened(name)
    assert load(name, sets=changes).scenario.name == name
    assert ("workload" in changes) == name.startswith("real/")
