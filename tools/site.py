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
from moesim.errors import InputError
from moesim.report.canvas import house_style, save
from moesim.scenario import catalogue, load
from moesim.workload.jobs import LayerBatch

ROOT = Path(__file__).resolve().parents[1]
DOCS, SITE = ROOT / "docs", ROOT / "build" / "site"
MADE = DOCS / "_made"
FEW: dict[str, Any] = {"workload.requests": 2, "workload.prompt": 32, "workload.output": 4}
DRAWN: dict[str, Any] = {"kind": "offline", "requests": 2, "prompt": 32, "output": 4, "routing": {"kind": "sticky"}}
"""Instead of a workload whose record is not part of the project."""


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
    """The page of shipped scenarios, each with a picture, what it is for and its command."""
    lines = [
        "# Gallery of scenarios",
        "",
        "What ships, by name: `moesim run NAME`, or as the start of your own (`extends: NAME`). Pictures show what each layer",
        "waits for (of a dense model, how busy each lane is) in a run cut short, two requests of 32 + 4 tokens; its numbers",
        "are not those of the whole run.",
        "",
    ]
    for entry in catalogue.names("scenarios"):
        changes = shortened(entry.name)
        lines += [f"## {entry.name}", "", f"![{entry.name}]({thumbnail(entry.name, changes)})", "", entry.summary, ""]
        if "workload" in changes:
            lines += ["It replays a record that is not part of the project; the picture has drawn requests and routing.", ""]
        lines += ["```sh", f"moesim run {entry.name}", "```", ""]
    return "\n".join(lines)


def shortened(name: str) -> dict[str, Any]:
    """Overrides that cut the scenario short; another workload where its record is not here, none where it is one layer."""
    try:
        loaded = load(name)
    except InputError:
        return {"workload": DRAWN}
    return {} if isinstance(loaded.scenario.workload, LayerBatch) else FEW


def thumbnail(name: str, changes: dict[str, Any]) -> str:
    """A picture of the scenario with these overrides, in the folder of the gallery."""
    with house_style():
        result = moesim.run(name, **changes)
        figure = result.plot("layer_time" if len(result.frame("layer_lanes")) else "lane_use", width=4.5)
    return save(figure, MADE / f"{name.replace('/', '-')}.svg").name


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
