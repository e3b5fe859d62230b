"""A command tells what it warns of in one line, once, whichever process met it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from moesim.runs.pools import outcomes
from moesim.terminal import plain_warnings
from tests import forked

MODEL = (
    "{name: mine, hidden: 64, layers: 2, experts: 48, top_k: 3, expert_width: 32, vocab: 100, "
    "attention: {kind: gqa, heads: 4, kv_heads: 2, head_dim: 16}}"
)
SCENARIO = f"""\
hardware: rtx4090-desktop
model: {MODEL}
workload: {{kind: offline, requests: 1, prompt: 4, output: 2, routing: {{kind: sticky}}}}
policy: lru
"""
NOTE = (
    "note: no routing was fitted to 'mine' (48 experts, top-3); borrowing the preset 'gpt-oss-20b' (32 experts, top-4). "
    "Name a preset or all of exponent, tail, tilt, thread, reuse, memory, coupling\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(
    "words",
    [
        ["run", "odd.yaml"],
        ["explain", "odd.yaml"],
        ["compare", "odd.yaml", "--policies", "lru,on_demand", "--jobs", "2"],
        ["sweep", "vary.yaml", "--jobs", "2"],
    ],
    ids=lambda words: words[0],
)
def test_borrowed_routing_is_reported_in_one_line_once(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(SCENARIO)
    (tmp_path / "vary.yaml").write_text("scenario: odd\naxes: {workload.prompt: [2, 3, 4]}\npolicies: [lru, on_demand]\n")
    done = forked.moesim(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, NOTE)


class Warner:
    """A job that warns of the same twice."""

    name, base, kinds = "warner", Path(), ()

    def run(self) -> int:
        for _ in range(2):
            warnings.warn("a note\x1b[31m\nof two lines", stacklevel=1)
        return 7


@pytest.mark.usefixtures("forked_workers")
def test_what_a_worker_warns_of_reaches_who_asked() -> None:
    with pytest.warns(UserWarning, match="a note") as caught:
        assert [answer for _, answer in outcomes([Warner(), Warner()], jobs=2)] == [7, 7]
    assert {str(warning.message) for warning in caught} == {"a note\x1b[31m\nof two lines"}


def test_a_warning_is_shown_harmless_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_warnings():
        warnings.simplefilter("always")
        for line in range(2):
            warnings.warn_explicit("a note\x1b[31m\nof two lines", UserWarning, "code.py", line)
    assert capsys.readouterr().err == "note: a note\\u001b[31m of two lines\n"
