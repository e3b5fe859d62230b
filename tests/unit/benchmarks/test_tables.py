"""What the benchmarks print: every number of the document, one row for each case, columns below their heads."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))  # benchmarks lie beside the package, not in it

from benchmarks.tables import text_of


def test_jobs_stand_below_each_other_with_their_share_of_the_first_edition():
    spent = {"cpu_s": 1.25, "wall_s": 2.5, "peak_MB": 120, "visits_per_cpu_s": 2970}
    parts = {"jobs": {"a": {"kept": {**spent, "share_of_first_edition": 0.125}}, "longer": {"whole": {**spent, "peak_MB": 9}}}}
    text = text_of({"commit": "0123456789abcdef", "machine": "m", "python": "3.11", **parts})
    head, first, second = text.splitlines()[-3:]
    assert text.startswith("moesim 0123456789 on m, Python 3.11")
    assert first.split() == ["a", "kept", "1.25", "2.5", "120", "2,970", "12%"]
    assert second.split() == ["longer", "whole", "1.25", "2.5", "9", "2,970"]
    assert head.index("MB") + 2 == first.index("120") + 3 == second.index("9 ") + 1
