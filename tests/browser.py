"""A real browser for the report's tests, and its screenshots: `python tests/browser.py REPORT.html docs/report`.

Headless Chromium over its command line, nothing to install beside it (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
]
DESK, PHONE = (1280, 900), (390, 844)

PROBE = """
<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const width = document.documentElement.clientWidth;
  const scrolls = e => e.closest(".scroll, pre");
  const wide = [...document.body.querySelectorAll("*")].filter(
    e => !scrolls(e) && !e.closest("svg *") && e.getBoundingClientRect().right > width + 0.5);
  const small = [...document.querySelectorAll("svg text")].map(t => t.getBoundingClientRect().height);
  const found = {
    inner: innerWidth, client: width, scroll: document.documentElement.scrollWidth,
    wide: wide.map(e => e.tagName + "." + e.className).slice(0, 5),
    figures: [...document.querySelectorAll("svg")].map(s => [s.getBoundingClientRect().width, s.getBoundingClientRect().height]),
    marks: [...document.querySelectorAll("svg")].map(s => s.querySelectorAll("path, circle, rect").length),
    text: Math.min(...small), body: parseFloat(getComputedStyle(document.querySelector("p")).fontSize),
    resources: performance.getEntriesByType("resource").map(r => r.name),
    back: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
  };
  const out = document.createElement("pre");
  out.id = "probe"; out.textContent = JSON.stringify(found); parent.document.body.append(out);
});
</script>
"""


def chromium() -> str | None:
    """The browser's program, where there is one."""
    return next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)


@dataclass(frozen=True)
class Seen:
    """What the browser found on a page."""

    console: tuple[str, ...]
    """Messages on the console, whatever their level."""
    facts: dict[str, Any]
    """See `PROBE`."""


def _run(page: Path, size: tuple[int, int], *more: str) -> tuple[str, str]:
    program = chromium()
    assert program is not None, "no Chromium here"
    with tempfile.TemporaryDirectory() as profile:
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", *more]
        done = subprocess.run(
            [program, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def look(page: Path, size: tuple[int, int], *more: str) -> Seen:
    """Open the page, with the probe in it, in a frame of that size: a window of its own could not be so narrow."""
    with tempfile.TemporaryDirectory() as folder:
        inner = escape(page.read_text().replace("</body>", PROBE + "</body>"), quote=True)
        frame = f'style="border:0;width:{size[0]}px;height:{size[1]}px" srcdoc="{inner}"'
        outer = Path(folder) / "frame.html"
        outer.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0"><iframe {frame}></iframe>')
        dom, log = _run(outer.resolve(), DESK, "--dump-dom", *more)
    found = re.search(r'<pre id="probe">(\{.*?)</pre>', dom, re.DOTALL)
    assert found is not None, f"the probe did not run: {log[-2000:]}"
    console = tuple(line for line in log.splitlines() if "CONSOLE" in line)
    return Seen(console, json.loads(unescape(found.group(1))))


def screenshot(page: Path, size: tuple[int, int], out: Path, *more: str) -> None:
    """A PNG of the page's top, with few colours, so that it stays small."""
    from PIL import Image

    _run(page.resolve(), size, f"--screenshot={out.resolve()}", *more)
    with Image.open(out) as image:
        small = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(out, optimize=True)


if __name__ == "__main__":
    report, prefix = Path(sys.argv[1]), Path(sys.argv[2])
    screenshot(report, (1280, 1900), prefix.with_name(prefix.name + "-desk.png"))
    screenshot(report, (390, 1700), prefix.with_name(prefix.name + "-phone.png"))
    dark = "--blink-settings=preferredColorScheme=0"
    screenshot(report, (1280, 900), prefix.with_name(prefix.name + "-dark.png"), dark)
