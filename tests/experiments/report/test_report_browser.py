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
    cut: [...page.querySelectorAll(".scroll:not(.matrix)")].filter((element) =>
      element.scrollWidth > element.clientWidth + 1).length,
    brokenLinks: [...page.querySelectorAll("a[href^='#']")].filter((a) =>
      !page.getElementById(a.getAttribute("href").slice(1))).length,
    brokenImages: [...page.images].filter((image) => !image.naturalWidth).length,
  }};
  fetch("found", {{ method: "POST", body: JSON.stringify(found) }});
}};
frame.addEventListener("load", look);
</script>"""


# What a hand does: choose a class, open one that was invented, name it, and save the hierarchy; then the keyboard's ways.
HAND = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe src="report.html" style="border:0;width:{width}px;height:3000px"></iframe>
<script>
const frame = document.querySelector("iframe");
const work = async () => {{
  const page = frame.contentDocument, box = page.querySelector("[data-browser]"), saved = [];
  const {{ Event, KeyboardEvent, HTMLElement }} = frame.contentWindow;
  frame.contentWindow.URL.createObjectURL = (blob) => {{ saved.push(blob); return "#"; }};
  const select = box.querySelector("select"), input = box.querySelector("input");
  const shown = () => [...box.querySelectorAll(".choices button")];
  const all = shown().length;
  box.querySelector(".tools button").click();
  select.value = "1";
  select.dispatchEvent(new Event("change"));
  const within = shown().map((button) => button.textContent);
  shown().filter((button) => !button.disabled).at(-1).click();
  const pictures = [...box.querySelectorAll(".samples img")];
  await Promise.all(pictures.map((image) => image.decode()));
  const heading = box.querySelector("h4").textContent;
  const shares = box.querySelectorAll(".samples figure figcaption")[0].textContent;
  const rename = (name) => {{
    input.value = name;
    input.dispatchEvent(new Event("change"));
    return box.querySelector("[role=status]").textContent;
  }};
  const refused = [rename("  "), rename("nought · 0")];
  rename('=tall, "thin"');
  box.querySelector(".tools button").click();
  const details = page.querySelector("details");
  details.open = true;
  details.querySelector("summary").focus();
  details.querySelector("summary").dispatchEvent(new KeyboardEvent("keydown", {{ key: "Escape", bubbles: true }}));
  const found = {{
    all, within, heading, shares, refused,
    pictures: pictures.length,
    files: await Promise.all(saved.map((blob) => blob.text())),
    closed: !details.open,
    focused: page.activeElement === details.querySelector("summary"),
    first: page.querySelector("a").getAttribute("href"),
    ways: [...page.querySelectorAll(".back a")].map((a) => a.getAttribute("href")),
  }};
  fetch("found", {{ method: "POST", body: JSON.stringify(found) }});
}};
frame.addEventListener("load", () => work().catch((error) =>
  fetch("found", {{ method: "POST", body: JSON.stringify({{ error: String(error) }}) }})));
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


def _visit(page: str, width: int, *flags: str, script: str = FRAME) -> Visit:
    """Shows ``page`` in a frame of this width until its script has found what it looks for."""
    requests: list[str] = []
    answers: queue.Queue[bytes] = queue.Queue()
    pages = {"/": script.format(width=width), "/report.html": page}

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


@pytest.mark.parametrize("width", [390, 1400])
def test_everything_is_drawn_within_the_page(report, width):
    visit = _visit(report, width)
    assert visit.console == []
    assert visit.requests == ["/", "/report.html"]
    found = visit.found
    assert found["drawn"] == found["plots"] >= 15
    assert found["pageWidth"] <= width
    assert found["rightmost"] <= width
    for count in ("unnamed", "scrollers", "cut", "brokenLinks", "brokenImages"):
        assert found[count] == 0, count
    # No button that sends the chart to a server, which Plotly has by default.
    assert found["buttons"] == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]


def test_invented_classes_are_browsed_named_and_saved(tmp_path):
    run = write_run(tmp_path / "run", epochs=3)
    visit = _visit(write_report(run).read_text(), 800, script=HAND)
    found = visit.found
    assert "error" not in found, found
    assert visit.console == []
    assert found["all"] == 12
    assert [name.split(" (")[0] for name in found["within"]] == ["one · 0", "one · 1", "one · 2"]
    assert found["heading"].startswith("one · 2: ")
    assert found["pictures"] > 0
    assert re.match(r"[01]\.\d\d row \d+[01]\.\d\d, [01]\.\d\d, [01]\.\d\d$", found["shares"])
    assert found["refused"] == [
        "A class needs a name.",
        "“nought · 0” is a name in another class: choose a different one.",
    ]
    beside = (run / "report-invented.csv").read_text()
    first, second = found["files"]
    assert first == beside  # to the last character
    assert second == beside.replace(",one · 2\n", ',"\'=tall, ""thin"""\n')
    assert found["closed"]
    assert found["focused"]
    assert found["first"] == "#main"
    assert found["ways"]
    assert set(found["ways"]) == {"#contents"}


def test_dark_pages_have_light_ink(report):
    found = _visit(report, 700, "--blink-settings=preferredColorScheme=0").found
    assert found["background"] == "rgb(20, 23, 26)"
    assert found["ink"] == found["axisInk"] == "rgb(230, 232, 235)"


def test_the_policy_stops_a_request_before_it_is_made(tmp_path):
    page = write_report(write_run(tmp_path / "run", snapshot=False, epochs=3)).read_text()
    visit = _visit(page.replace("</main>", '<img alt="x" src="spy.png"></main>'), 600)
    assert visit.requests == ["/", "/report.html"]
    assert any("Content Security Policy" in line for line in visit.console)
