"""The report in a real browser: drawn, within the page at any width, legible in the dark, and silent."""

from __future__ import annotations

import http.server
import json
import queue
import re
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from _report_helpers import write_run, write_study
from maxl.experiments.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")

# The report in a frame of the width to test: a browser's own window has a least width far above a phone's.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe src="report.html" style="border:0;width:{width}px;height:30000px"></iframe>
<script>
const frame = document.querySelector("iframe");
const look = () => {{
  const page = frame.contentDocument, plots = [...page.querySelectorAll(".plot")];
  const drawn = plots.filter((plot) => plot.querySelector(".main-svg .plot, .main-svg .cartesianlayer path"));
  const ready = page.readyState === "complete" && drawn.length === plots.length;
  if (!ready && performance.now() < 30000) return setTimeout(look, 100);
  const right = (element) => element.getBoundingClientRect().right;
  const colour = (element) => frame.contentWindow.getComputedStyle(element);
  const found = {{
    plots: plots.length,
    drawn: drawn.length,
    pageWidth: page.documentElement.scrollWidth,
    rightmost: Math.max(...plots.flatMap((plot) => [...plot.querySelectorAll("svg")].map(right))),
    buttons: [...new Set([...page.querySelectorAll(".modebar-btn")].map((button) => button.dataset.title))],
    background: colour(page.body).backgroundColor,
    ink: colour(page.body).color,
    axisInk: colour(page.querySelector(".xtick text") ?? page.body).fill,
    unnamed: [...page.querySelectorAll("img, [role=img], section, nav, [role=region]")].filter((element) =>
      !element.getAttribute("alt") && !element.getAttribute("aria-label")
      && !page.getElementById(element.getAttribute("aria-labelledby"))).length,
    scrollers: [...page.querySelectorAll(".scroll")].filter((element) => element.tabIndex !== 0).length,
    brokenLinks: [...page.querySelectorAll("a[href^='#']")].filter((a) =>
      !page.getElementById(a.getAttribute("href").slice(1))).length,
    brokenImages: [...page.images].filter((image) => !image.naturalWidth).length,
  }};
  fetch("found", {{ method: "POST", body: JSON.stringify(found) }});
}};
frame.addEventListener("load", look);
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study"), methods=("single", "maxl"), psis=(2, 3), epochs=5)
    write_run(folder / "a long name", method="human", psi=3, label_verdict="one long word: " + "x" * 80)
    return write_report(folder).read_text()


@dataclass
class Visit:
    """What the frame found on the page, what the console said, and what the server was asked for."""

    found: dict[str, Any]
    console: list[str]
    requests: list[str]


def _visit(page: str, width: int, *flags: str) -> Visit:
    """Shows ``page`` in a frame of this width until it is drawn."""
    requests: list[str] = []
    answers: queue.Queue[bytes] = queue.Queue()
    pages = {"/": FRAME.format(width=width), "/report.html": page}

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self._answer(pages.get(self.path, ""))

        def do_POST(self) -> None:
            answers.put(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer("")

        def _answer(self, text: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        tempfile.TemporaryFile("w+") as log,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
        ]
        command += [f"--user-data-dir={profile}", f"--window-size={max(width, 600)},30000", *flags]
        browser = subprocess.Popen([*command, f"http://127.0.0.1:{server.server_port}/"], stderr=log)
        try:
            found = json.loads(answers.get(timeout=60))
        finally:
            browser.terminate()
            browser.wait(timeout=20)
            server.shutdown()
        log.seek(0)
        console = re.findall(r".*:CONSOLE.*", log.read())
    return Visit(found, console, [path for path in requests if path != "/favicon.ico"])


@pytest.mark.parametrize("width", [390, 1280])
def test_everything_is_drawn_within_the_page(report, width):
    visit = _visit(report, width)
    assert visit.console == []
    assert visit.requests == ["/", "/report.html"]
    found = visit.found
    assert found["drawn"] == found["plots"] >= 15
    assert found["pageWidth"] <= width
    assert found["rightmost"] <= width
    for count in ("unnamed", "scrollers", "brokenLinks", "brokenImages"):
        assert found[count] == 0, count
    # No button that sends the chart to a server, which Plotly has by default.
    assert found["buttons"] == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]


def test_dark_pages_have_light_ink(report):
    found = _visit(report, 700, "--blink-settings=preferredColorScheme=0").found
    assert found["background"] == "rgb(20, 23, 26)"
    assert found["ink"] == found["axisInk"] == "rgb(230, 232, 235)"


def test_the_policy_stops_a_request_before_it_is_made(tmp_path):
    page = write_report(write_run(tmp_path / "run", snapshot=False, epochs=3)).read_text()
    visit = _visit(page.replace("</main>", '<img alt="x" src="spy.png"></main>'), 600)
    assert visit.requests == ["/", "/report.html"]
    assert any("Content Security Policy" in line for line in visit.console)
