"""Chromium without a window, driven over two pipes by its DevTools protocol; nothing but the standard library."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE_S = 30.0

# The browser reads from descriptor 3 and writes to 4, whatever numbers the pipes have here.
_START = (
    "import fcntl, os, sys; r, w = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]);"
    "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """A browser process with a profile of its own."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        ours_in, theirs_out = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
                 "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}"]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs_in), str(theirs_out), CHROMIUM, *flags],
            pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._answers = self._read(ours_in)
        self._numbers = itertools.count(1)
        self._loaded = False
        self.console = []

    @staticmethod
    def _read(descriptor):
        with os.fdopen(descriptor, "rb") as pipe:
            waiting = b""
            while select.select([pipe], [], [], _PATIENCE_S)[0] and (piece := os.read(pipe.fileno(), 1 << 16)):
                *whole, waiting = (waiting + piece).split(b"\0")
                yield from map(json.loads, whole)

    def call(self, method, session=None, **parameters):
        """What the browser answers to a command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def load(self, session, method, **parameters):
        """Call for another document, and wait until it is there."""
        self._loaded = False
        self.call(method, session, **parameters)
        while not self._loaded:
            self._next()

    def _next(self):
        answer = next(self._answers, None)
        if answer is None:
            raise TimeoutError("The browser is silent.")
        if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(json.dumps(answer["params"]))
        self._loaded |= answer.get("method") == "Page.loadEventFired"
        return answer

    def open(self, address, width=1440, height=900):
        """A new page, alone with its cookies and storage as in a browser of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call(
            "Target.createTarget", url="about:blank", browserContextId=context, width=width, height=height
        )["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.go(address)
        return page

    def close(self):
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
        os.close(self._out)


class Page:
    """A tab."""

    def __init__(self, browser, session):
        self._browser, self._session = browser, session

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def go(self, address):
        self._browser.load(self._session, "Page.navigate", url=address)

    def reload(self):
        self._browser.load(self._session, "Page.reload")

    def run(self, script):
        """The value of an expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def until(self, script):
        """Wait for an expression to be true."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self.run(f"Boolean({script})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{script} stayed false; the page says {self.run('document.body.innerText')!r}")
            time.sleep(0.02)

    def press(self, key):
        """A key as a keyboard gives it, or a named one such as Escape."""
        text = {"text": key} if len(key) == 1 else {}
        code = {"Escape": 27, "Enter": 13, "ArrowDown": 40, "ArrowUp": 38}.get(key, 0)
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, text):
        self.call("Input.insertText", text=text)

    def click(self, selector):
        """Click where an element is, with the mouse."""
        x, y = self.run(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def move(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
