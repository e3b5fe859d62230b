"""The documentation site: the pages of this folder, a gallery of scenarios, the notebooks, the API, a glossary.

`python tools/site.py` builds it. What is made for it (gallery, notebooks, thumbnails) lies in `_made` and is not kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tools"))

from moesim.version import __version__  # noqa: E402

project, author, release = "moesim", "The moesim authors", __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
copyright = author
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"moesim {release}"
exclude_patterns = ["_build", "conf.py"]
myst_heading_anchors = 4
myst_enable_extensions = ["deflist", "colon_fence"]
suppress_warnings = ["myst.header"]
nb_execution_mode = "off"  # tools/site.py --run runs the notebooks
nb_execution_timeout = 600
autodoc_typehints = "description"
autodoc_member_order = "bysource"
default_role = "code"
