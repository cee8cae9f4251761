"""A window of a real chromium on the farm's page: looked at, typed into, and asked what it shows."""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.reporting import browser_check

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 20.0
_RAN = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening"}
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}

#: The text that is too pale: of each visible text its colour against what lies behind it, and how large it is.
PALE = """(() => {
const lum = c => { const f = c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
const rgba = s => { const m = s.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
const behind = e => { const layers = []; for (let at = e; at; at = at.parentElement) {
  const c = rgba(getComputedStyle(at).backgroundColor); layers.push(c); if (c[3] === 1) break; }
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]); };
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walk.nextNode(); node; node = walk.nextNode()) {
  const e = node.parentElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (!node.data.trim() || box.width < 2 || e.closest('script,style,title,option')) continue;
  const below = behind(e), top = rgba(e.closest('svg') ? style.fill : style.color);
  const [a, b] = [lum(over(top, below)), lum(below)].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  const ratio = (a + .05) / (b + .05);
  if (ratio < (large ? 3 : 4.5)) found.push(node.data.trim().slice(0, 40) + ': ' + ratio.toFixed(2));
}
return found; })()"""

#: How wide the page is beyond its window, and who is to blame.
TOO_WIDE = """(() => {
const root = document.documentElement;
if (root.scrollWidth <= root.clientWidth) return [];
return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > root.clientWidth + 1)
  .map(e => e.tagName + '.' + e.className + '#' + e.id).slice(0, 5); })()"""

#: Every control that a keyboard has to reach; of radio buttons one of a group.
CONTROLS = """(() => {
const seen = new Set(), found = [];
for (const e of document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')) {
  if (!e.checkVisibility() || e.disabled || e.type === 'hidden') continue;
  if (e.type === 'radio') { if (seen.has(e.name)) continue; seen.add(e.name); found.push('radio ' + e.name); continue; }
  e.dataset.seen = found.length; found.push(String(found.length));
}
return found; })()"""

FOCUSED = """(() => {
const e = document.activeElement, style = getComputedStyle(e);
return {name: e.type === 'radio' ? 'radio ' + e.name : e.dataset.seen ?? e.tagName,
  shown: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2}; })()"""


@dataclass(kw_only=True)
class Window:
    """A window; ``at`` is the address of the farm."""

    browser: browser_check.Browser
    at: str

    def size(self, width: int, *, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.browser.call("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.call("Emulation.setDeviceMetricsOverride", **metrics)

    def move(self, at: str) -> None:
        """Leave what is shown, so that it asks nobody any more, and look at another farm from now on."""
        self.browser.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.at = at

    def go(self, path: str) -> None:
        self.browser.events.clear()
        self.browser.call("Page.navigate", url=self.at + path)
        self.browser.wait_for("Page.loadEventFired")

    def ask(self, script: str) -> Any:
        said = self.browser.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until a script says yes, across pages."""
        until = time.monotonic() + WAIT_S
        while not self.browser.evaluate(script):
            assert time.monotonic() < until, f"never: {script}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        self.browser.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.browser.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text: str) -> None:
        self.browser.call("Input.insertText", text=text)

    def tab_to(self, selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(200):
            self.press("Tab")
            # A document that is being opened has no element yet that could have the focus.
            if self.ask(f"document.activeElement?.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"Tab never reaches {selector}")

    def refresh(self) -> None:
        """Let the page look for news now, not only in a few seconds."""
        self.ask("document.dispatchEvent(new Event('visibilitychange'))")

    def complaints(self) -> list[str]:
        """Return what the console said, and what was refused by the page's policy."""
        said = []
        for event in self.browser.events:
            params = event.get("params", {})
            entry = params.get("entry", {})
            if event.get("method") == "Log.entryAdded" and entry.get("level") != "verbose":
                said.append(str(entry))
            elif event.get("method") in _RAN:
                said.append(str(params))
        return said

    def requests(self) -> list[str]:
        """Return what was asked of anybody but the farm."""
        sent = [event["params"] for event in self.browser.events if event.get("method") == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent if not each["request"]["url"].startswith(self.at)]

    def picture(self, path: Path) -> None:
        shot = self.browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def opened(at: str) -> Iterator[Window]:
    """Yield a window of a fresh chromium."""
    with tempfile.TemporaryDirectory(prefix="edgebuild-browser-", ignore_cleanup_errors=True) as profile:
        browser = browser_check.start(Path(profile))
        try:
            yield Window(browser=browser, at=at)
        finally:
            browser_check.stop(browser)
