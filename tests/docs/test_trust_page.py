"""docs/trust.md: its table of accuracy is that of docs/validation.md, and every test that it names is there."""

from __future__ import annotations

import re

from tools.trust_table import PAGE, ROOT, rewritten


def test_the_table_of_accuracy_is_that_of_the_cases() -> None:
    page = PAGE.read_text("utf-8")
    assert page == rewritten(page), "write it again: python tools/trust_table.py"


def test_every_file_that_the_page_names_is_there() -> None:
    for path in re.findall(r"`((?:tests|docs|moesim)/[\w/.]+)`", PAGE.read_text("utf-8")):
        assert (ROOT / path).exists(), path
