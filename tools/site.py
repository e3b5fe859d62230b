"""Builds the documentation site into build/site: pages, gallery of scenarios, notebooks, API, search; every link is tested.

python tools/site.py                   notebooks as they are kept, without outputs
python tools/site.py --run             runs them first (some minutes)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import moesim
from moesim.report.canvas import house_style, save
from moesim.scenario import catalogue

ROOT = Path(__file__).resolve().parents[1]
DOCS, SITE = ROOT / "docs", ROOT / "build" / "site"
MADE = DOCS / "_made"
FEW: dict[str, Any] = {"workload.requests": 2, "workload.prompt": 32, "workload.output": 4}
PICTURED = ("quickstart", "cox_moe/qwen3-30b", "moe_cxl/mixtral-8x7b", "buy/qwen3-235b-8-users")
"""Scenarios whose thumbnail is drawn from a short run; the others take seconds each to run, and stand as text."""


def main(arguments: list[str]) -> int:
    """Makes what the pages need, and builds; the exit status of Sphinx, for which each broken link is an error."""
    shutil.rmtree(MADE, ignore_errors=True)
    (MADE / "notebooks").mkdir(parents=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = notebook.read_text("utf-8").replace("](../docs/", "](../../")
        (MADE / "notebooks" / notebook.name).write_text(text, "utf-8")
    (MADE / "gallery.md").write_text(gallery(), "utf-8")
    mode = "force" if "--run" in arguments else "off"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-D", f"nb_execution_mode={mode}"]
    return subprocess.run([*command, str(DOCS), str(SITE)], check=False).returncode


def gallery() -> str:
    """The page of shipped scenarios, each with its command and what it is for."""
    lines = [
        "# Gallery of scenarios",
        "",
        "What ships, by name: `moesim run NAME`, or as the start of your own (`extends: NAME`).",
        "",
    ]
    for entry in catalogue.names("scenarios"):
        lines += [f"## {entry.name}", "", entry.summary, ""]
        lines += [f"![layers of {entry.name}]({thumbnail(entry.name)})", ""] if entry.name in PICTURED else []
        lines += ["```sh", f"moesim run {entry.name}", "```", ""]
    return "\n".join(lines)


def thumbnail(name: str) -> str:
    """A picture of a short run of the scenario, in the folder of the gallery."""
    with house_style():
        figure = moesim.run(name, **FEW).plot("layer_time", width=4.5)
    return save(figure, MADE / f"{name.replace('/', '-')}.svg").name


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
