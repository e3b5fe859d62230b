"""Progress bars: whole counts and no rate on a terminal, silence everywhere else."""

from __future__ import annotations

import io

import pytest

from moesim.progress import bar


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_whole_counts_and_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    with bar("sweeping", "points") as progress:
        assert terminal.getvalue() == ""
        progress(3, 36)
        progress(1200, 3600)
        progress(3600, 3600)
    text = terminal.getvalue()
    assert text.startswith("\rsweeping:   8 % ")
    assert "3 of 36 points [00:00, ? left]" in text
    assert "/s" not in text
    assert text.endswith("\r")  # the bar leaves nothing behind


def test_a_file_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("simulating", "tokens") as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""


def test_the_bar_is_taken_away_where_the_work_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    def work() -> None:
        with bar("sweeping", "points") as progress:
            progress(1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert terminal.getvalue().endswith("\r")
