"""The page in a real browser, headless Chromium driven over WebDriver: it sorts, fits its window, says nothing on the console.

Skips where the browser is not installed (Debian packages `chromium` and `chromium-driver`).
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KINDS = ("of_run", "of_comparison", "of_sweep")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-default-browser-check",
)  # fmt: skip


class Browser:
    """One session of a driver, through its plain HTTP protocol (W3C WebDriver)."""

    def __init__(self, port: int, chromium: str, profile: Path) -> None:
        self._root = f"http://127.0.0.1:{port}"
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = ""
        session = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{session['sessionId']}"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._root}{self._session}{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with self._open.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def show(self, page: Path, *, width: int = 1400, dark: bool = False) -> None:
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("POST", "/url", {"url": page.as_uri()})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def messages(self) -> list[str]:
        return [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]

    def quit(self) -> None:
        self.ask("DELETE", "")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no headless browser here; install the Debian packages chromium and chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    profile = tmp_path_factory.mktemp("profile")
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, process)
        session = Browser(port, chromium, profile)
        yield session
        session.quit()
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "chromedriver ended at once"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("chromedriver does not answer")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wrong_and_nothing_is_fetched(kind: str, browser: Browser, pages: dict[str, Path]) -> None:
    browser.messages()
    browser.show(pages[kind])
    assert browser.run("return document.readyState") == "complete"
    assert browser.messages() == []
    fetched = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert browser.run("return document.scripts.length") == 1
    assert browser.run("return [...document.querySelectorAll('svg')].every((one) => one.getBoundingClientRect().height > 50)")


def test_the_policy_stops_foreign_scripts(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    text = pages["of_run"].read_text("utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("</body>", "<script>window.ran = true</script></body>"), "utf-8")
    browser.show(broken)
    assert browser.run("return window.ran === undefined")
    assert any("Content Security Policy" in message for message in browser.messages())


COLUMN = """
const table = [...document.querySelectorAll('table')].find((one) => one.caption.textContent.startsWith(arguments[0]));
const index = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === arguments[1]);
"""
CLICK = (
    COLUMN
    + "table.tHead.rows[0].cells[index].querySelector('button').click(); return table.tHead.rows[0].cells[index].ariaSort;"
)
READ = COLUMN + "return [...table.tBodies[0].rows].map((row) => row.cells[index].textContent);"


def test_a_click_sorts_numbers_by_value_and_again_turns_them_round(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["of_run"])
    column = ("Operations, each alone on its device", "work")
    prefixes = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

    def values() -> list[float]:
        pairs = [text.removesuffix("FLOP").split(" ") for text in browser.run(READ, *column)]
        return [float(number) * prefixes[prefix] for number, prefix in pairs]

    assert browser.run(CLICK, *column) == "descending"
    down = values()
    assert browser.run(CLICK, *column) == "ascending"
    assert len(set(down)) > 3
    assert down == sorted(down, reverse=True)
    assert values() == sorted(down)


def test_what_is_missing_stands_last_either_way(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["of_run"])
    column = ("Lanes, links and tiers", "moved")
    for order in ("descending", "ascending"):
        assert browser.run(CLICK, *column) == order
        missing = [text == "\N{EN DASH}" for text in browser.run(READ, *column)]
        assert 0 < sum(missing) < len(missing)
        assert missing == sorted(missing)


def test_a_click_sorts_texts_by_letter(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["of_comparison"])
    column = ("Policies, the fastest first", "policy")
    before = browser.run(READ, *column)
    assert browser.run(CLICK, *column) == "ascending"
    assert browser.run(READ, *column) == sorted(before)
    assert before != sorted(before)
    back = ("Policies, the fastest first", "tok/s")
    assert browser.run(CLICK, *back) == "descending"
    assert browser.run(READ, *column) == before
    script = COLUMN + "return [...table.tHead.rows[0].cells].filter((cell) => cell.ariaSort).map((cell) => cell.textContent);"
    assert browser.run(script, *column) == ["tok/s"]


def test_a_sorted_row_keeps_together(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["of_comparison"])
    column = ("Policies, the fastest first", "policy")
    rows = COLUMN + "return [...table.tBodies[0].rows].map((row) => row.textContent).sort();"
    before = browser.run(rows, *column)
    browser.run(CLICK, *column)
    assert browser.run(rows, *column) == before


@pytest.mark.parametrize("width", [1400, 800, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_fits_its_window(kind: str, width: int, browser: Browser, pages: dict[str, Path]) -> None:
    """Only tables and figures scroll sideways, each in its own frame; text of figures stays readable."""
    browser.show(pages[kind], width=width)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    sizes = browser.run(
        "return [...document.querySelectorAll('figure svg')]"
        ".map((one) => one.getBoundingClientRect().width / one.viewBox.baseVal.width)"
    )
    assert sizes
    assert min(sizes) * 7 >= 6  # the smallest letters of a figure have 7 points
    assert eventually(lambda: browser.run(SILENT) == 0)


SILENT = """return [...document.querySelectorAll('.wide')].filter((place) => place.querySelector('table')
  && (place.scrollWidth > place.clientWidth + 1) !== place.classList.contains('scrolls')).length"""
"""Tables that scroll without saying so, or say so and do not."""


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it holds within some frames of the browser."""
    for _ in range(50):
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(dark: bool, browser: Browser, pages: dict[str, Path]) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.1, 1.4.3) for text, captions and links, in light and in dark."""
    browser.show(pages["of_run"], dark=dark)
    colours = browser.run(
        "const of = (name, what) => getComputedStyle(document.querySelector(name))[what];"
        "return [of('body', 'backgroundColor'), of('body', 'color'), of('figcaption', 'color'), of('nav a', 'color')];"
    )
    ground, *inks = (_luminance(colour) for colour in colours)
    assert (ground < 0.1) == dark
    for ink in inks:
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5
    labels = browser.run("return [...document.querySelectorAll('figure svg text')].map((text) => getComputedStyle(text).fill)")
    assert labels
    for label in set(labels):
        ink = _luminance(label)
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, label


def _luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.1)."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
