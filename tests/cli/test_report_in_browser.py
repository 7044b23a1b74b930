"""The report in a real browser: nothing is refused, everything is seen, nothing sticks out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium in the path")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The report in a frame of the width asked for: its own policy stays in force, and the frame can be
# measured from outside. Boxes that scroll by themselves may hold something wider than the page.
PROBE = """<!doctype html><meta charset="utf-8"><pre id="found">never measured</pre>
<iframe style="border:0;width:WIDTHpx;height:900px" srcdoc="REPORT"></iframe><script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, width = WIDTH
  const scrolls = e => e && (getComputedStyle(e).overflowX === "auto" || scrolls(e.parentElement))
  const name = e => e.tagName + "." + e.className + ": " + e.textContent.slice(0, 40)
  const box = e => e.getBoundingClientRect()
  const all = [...page.body.querySelectorAll("*")]
  document.querySelector("#found").textContent = JSON.stringify({
    scrollWidth: page.documentElement.scrollWidth,
    headings: [...page.querySelectorAll("h2")].filter(e => box(e).height > 0 && box(e).width > 0)
      .map(e => e.textContent),
    empty: [...page.querySelectorAll("section")].filter(e => box(e).height < 80).map(name),
    broken: [...page.images].filter(e => !e.complete || !e.naturalWidth || box(e).width < 150)
      .map(e => e.alt),
    images: page.images.length,
    graph: box(page.querySelector(".graph svg")).height,
    sticking: all.filter(e => !scrolls(e) && box(e).right > width + 1).map(name),
    dead: [...page.querySelectorAll("nav a")]
      .filter(e => !page.getElementById(e.getAttribute("href").slice(1))).map(name),
  })
})
</script>"""


def dump(page: Path, profile: Path) -> tuple[str, str]:
    """The document after loading, and what the console said."""
    run = subprocess.run(
        [
            str(BROWSER),
            *FLAGS,
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return run.stdout, "\n".join(re.findall(r".*:CONSOLE.*", run.stderr))


def measure(report: Path, width: int, folder: Path) -> dict[str, Any]:
    framed = escape(report.read_text(encoding="utf-8"))
    page = folder / "probe.html"
    page.write_text(PROBE.replace("WIDTH", str(width)).replace("REPORT", framed), encoding="utf-8")
    shown, said = dump(page, folder / "profile")
    assert said == ""
    match = re.search(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)
    assert match is not None
    found: dict[str, Any] = json.loads(unescape(match[1]))
    return found


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_seen_and_nothing_sticks_out(
    report: Path, width: int, tmp_path: Path
) -> None:
    found = measure(report, width, tmp_path)
    assert found["headings"] == re.findall("<h2>(.*?)</h2>", report.read_text(encoding="utf-8"))
    assert len(found["headings"]) == 9
    assert found["images"] == 4 + 8  # four results, a DAC and an ADC of four regions
    assert found["graph"] > 100
    assert found["scrollWidth"] <= width
    assert {k: found[k] for k in ("empty", "broken", "sticking", "dead")} == {
        "empty": [],
        "broken": [],
        "sticking": [],
        "dead": [],
    }


def test_what_sticks_out_or_is_broken_would_be_found(report: Path, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8")
    wide = '<p style="width:1500px;max-width:none">wide</p>'
    wide += '<img alt="torn" src="data:image/png;base64,AAAA">'
    (tmp_path / "bad.html").write_text(text.replace("<h2>Graph", f"{wide}<h2>Graph"))
    found = measure(tmp_path / "bad.html", 390, tmp_path)
    assert found["scrollWidth"] > 1000
    assert found["sticking"][0].startswith("P.: wide")
    assert found["broken"] == ["torn"]


def test_the_console_stays_silent_and_the_policy_holds(report: Path, tmp_path: Path) -> None:
    shown, said = dump(report, tmp_path / "profile")
    assert said == ""
    assert "How this was made" in shown
    # The page's own policy refuses a script and anything from elsewhere, and says so.
    text = report.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("<nav>", "<script>document.title = 'run'</script><nav>"))
    shown, said = dump(broken, tmp_path / "profile")
    assert "<title>run" not in shown
    assert "Content Security Policy" in said


def test_a_screenshot_is_no_blank_page(report: Path, tmp_path: Path) -> None:
    shot = tmp_path / "report.png"
    size = [f"--screenshot={shot}", "--window-size=1200,3000"]
    home = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(BROWSER), *FLAGS, home, *size, report.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert shot.stat().st_size > 50_000  # a blank page of this size compresses to a tenth
