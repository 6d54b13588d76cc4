"""Debian's chromium without a window, spoken to in its DevTools protocol over two pipes: no driver, no port."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60  # seconds for one answer, on a machine that is busy


class Browser:
    """One page.

    Args:
        profile: folder for the browser's own files.

    Attributes:
        complaints: what the page wrote to the console, errors that nothing caught, and everything it asked the
            network for.
    """

    def __init__(self, profile):
        asked, tell = os.pipe()
        hear, told = os.pipe()
        words = [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]
        words += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--force-color-profile=srgb", "about:blank"]
        shell = ["bash", "-c", f'exec "$0" "$@" 3<&{asked} 4>&{told}']  # the protocol's two descriptors
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*shell, *words], pass_fds=(asked, told), **quiet)
        os.close(asked)
        os.close(told)
        self.tell, self.hear, self.rest, self.number, self.session = tell, hear, b"", 0, None
        self.complaints, self.loaded = [], False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self):
        """End the browser."""
        os.close(self.tell)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.hear)

    def ask(self, method, **parameters):
        """Send a command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.tell, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def open(self, url, until="true"):
        """Load a page and wait for it, and for the expression `until`."""
        self.loaded = False
        self.ask("Page.navigate", url=url)
        while not self.loaded:
            self._next()
        self.wait(until)

    def js(self, expression):
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression):
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.js(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def click(self, selector):
        """Press the mouse in the middle of an element."""
        place = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def write(self, selector, text):
        """Type into a field, in place of what is there."""
        self.js(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()")
        self.ask("Input.insertText", text=text) if text else self.press("Backspace", 8)

    def press(self, key, code):
        """Press a key, by its name and its number."""
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def view(self, width, height, scheme="light", phone=False):
        """Size of the window, and whether the system is light or dark."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, whole=False):
        """PNG of what is seen, or of the whole page."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def _next(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.hear], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self.hear, 1 << 20)
            assert more, "the browser has ended"
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        answer = json.loads(message)
        self._note(answer.get("method", ""), answer.get("params", {}))
        return answer

    def _note(self, event, facts):
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(facts["exceptionDetails"])
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(facts["args"])
        elif event == "Log.entryAdded":
            self.complaints.append(facts["entry"])
        elif event == "Network.requestWillBeSent" and facts.get("type") != "Document":
            url = facts["request"]["url"]
            self.complaints += [] if url.startswith("data:") else [url]
