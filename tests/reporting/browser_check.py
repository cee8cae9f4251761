"""Opens a report in a real chromium: no horizontal scroll, no network request, screenshots in light and dark.

    python -m tests.reporting.browser_check REPORT.html OUT_FOLDER

Speaks the devtools protocol over two pipes, so that nothing has to be installed besides chromium.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
_WAIT_S = 60.0
_HIGH_FD = 20


def chromium() -> str | None:
    """Return the path of a chromium, if this machine has one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass(kw_only=True)
class Browser:
    """A headless chromium; ``events`` are all devtools events in the order they came."""

    pid: int
    to_browser: int
    from_browser: int
    events: list[dict[str, Any]] = field(default_factory=list)
    session: str | None = None
    last: int = 0
    buffer: bytes = b""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.last += 1
        message: dict[str, Any] = {"id": self.last, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self.last:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                result: dict[str, Any] = reply["result"]
                return result
            self.events.append(reply)

    def wait_for(self, event: str) -> None:
        while not any(e.get("method") == event for e in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + _WAIT_S
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_browser], [], [], max(0.0, until - time.monotonic()))
            chunk = os.read(self.from_browser, 1 << 16) if ready else b""
            if not chunk:
                raise RuntimeError("chromium said nothing for a minute, or ended")
            self.buffer += chunk
        head, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(head)
        return message


def start(profile: Path) -> Browser:
    """Start chromium with its devtools on file descriptors 3 and 4, and attach to a blank page."""
    path = chromium()
    if path is None:
        raise RuntimeError("chromium isn't installed: apt-get install chromium")
    # Moved out of the way first: 3 or 4 may be one of our own ends.
    ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD) for pair in (os.pipe(), os.pipe()) for fd in pair]
    actions = [(os.POSIX_SPAWN_DUP2, ends[0], 3), (os.POSIX_SPAWN_DUP2, ends[3], 4)]
    log = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
    argv = [path, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    pid = os.posix_spawn(path, argv, dict(os.environ), file_actions=[*actions, log])
    os.close(ends[0])
    os.close(ends[3])
    browser = Browser(pid=pid, to_browser=ends[1], from_browser=ends[2])
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Network", "Runtime", "Log"):
        browser.call(f"{domain}.enable")
    return browser


def stop(browser: Browser) -> None:
    """End chromium and wait for it."""
    browser.session = None
    browser.call("Browser.close")
    os.waitpid(browser.pid, 0)
    os.close(browser.to_browser)
    os.close(browser.from_browser)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at the page found."""

    width: int
    scroll_width: int
    inner_width: int
    requests: tuple[str, ...]
    complaints: tuple[str, ...]
    overlapping_labels: int
    picture: Path


# Labels of the visible charts that cover one another by more than two pixels in both directions.
_OVERLAPS = """(() => { let n = 0;
for (const svg of document.querySelectorAll('svg.chart')) {
  const boxes = [...svg.querySelectorAll('.label')].map(e => e.getBoundingClientRect()).filter(b => b.width);
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2) n += 1; })); }
return n; })()"""


def look(browser: Browser, report: Path, *, width: int, dark: bool, picture: Path) -> Look:
    """Open ``report`` in a window of ``width`` CSS pixels and say what was seen; a screenshot lies at ``picture``."""
    browser.events.clear()
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.call("Emulation.setEmulatedMedia", features=[scheme])
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    browser.call("Page.navigate", url=report.resolve().as_uri())
    browser.wait_for("Page.loadEventFired")
    scroll, inner, overlaps = (
        browser.evaluate(e) for e in ("document.documentElement.scrollWidth", "window.innerWidth", _OVERLAPS)
    )
    shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
    picture.write_bytes(base64.b64decode(shot["data"]))
    urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    entries = [e["params"]["entry"]["text"] for e in browser.events if e.get("method") == "Log.entryAdded"]
    raised = [str(e["params"]) for e in browser.events if e.get("method") == "Runtime.exceptionThrown"]
    return Look(
        width=width,
        scroll_width=scroll,
        inner_width=inner,
        requests=tuple(u for u in urls if u != report.resolve().as_uri()),
        complaints=(*entries, *raised),
        overlapping_labels=overlaps,
        picture=picture,
    )


def check(report: Path, out: Path) -> tuple[Look, ...]:
    """Look at ``report`` at 390 and 1280 pixels, in light and dark; pictures are written into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgebuild-browser-", ignore_cleanup_errors=True) as profile:
        browser = start(Path(profile))
        try:
            return tuple(
                look(
                    browser,
                    report,
                    width=width,
                    dark=dark,
                    picture=out / f"report-{width}{'-dark' if dark else ''}.png",
                )
                for width in (390, 1280)
                for dark in (False, True)
            )
        finally:
            stop(browser)


def main(argv: list[str]) -> int:
    """Check the report named first and leave pictures in the folder named second; 1 if anything is wrong."""
    wrong = 0
    for seen in check(Path(argv[0]), Path(argv[1])):
        good = seen.scroll_width <= seen.inner_width == seen.width and not seen.requests and not seen.complaints
        wrong += not good or seen.overlapping_labels > 0
        sys.stdout.write(f"{'ok' if good else 'WRONG'} {seen}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
