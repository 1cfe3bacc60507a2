"""A headless Chromium for tests, driven over a pipe with the DevTools protocol. Needs nothing but the browser."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

WAIT_SECONDS = 60

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Page:
    """A page that has been loaded, with what it said and asked for.

    Attributes:
        messages: What came to its console, errors and exceptions, as text.
        requests: What it asked the network for, itself not among it.
    """

    def __init__(self, browser, session, url):
        self._browser = browser
        self._session = session
        self._url = url
        self.messages = []
        self.requests = []

    def call(self, method, **parameters):
        return self._browser.call(method, parameters, self._session)

    def evaluate(self, expression):
        """The value of an expression in the page; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression):
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def settle(self):
        """Wait until what was asked for has been drawn; a page behind another one is not."""
        self.call("Page.bringToFront")
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def press(self, key):
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, path, *, whole=True):
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def heard(self, event):
        method, fields = event["method"], event["params"]
        if method == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(arg.get("value", arg.get("description"))) for arg in fields["args"]))
        elif method == "Runtime.exceptionThrown":
            details = fields["exceptionDetails"]
            self.messages.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Log.entryAdded":
            self.messages.append(fields["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = fields["request"]["url"]
            if url != self._url and not url.startswith("data:"):
                self.requests.append(url)
        elif method == "Page.javascriptDialogOpening":
            self.messages.append(f"dialog: {fields['message']}")
            self.call("Page.handleJavaScriptDialog", accept=True)


class Chromium:
    """A browser process; use it as a context manager."""

    @property
    def pid(self):
        return self._process.pid

    def __enter__(self):
        self._profile = tempfile.mkdtemp(prefix="dagron-chromium-")
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        # The protocol wants 3 for what it reads and 4 for what it writes.
        quoted = f'"$@" 3<&{commands} 4>&{answers}'
        options = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", f"--user-data-dir={self._profile}"]
        options += ["--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {quoted}", "bash", PATH, *options, "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._rest, self._number, self._events, self._pages = b"", 0, [], {}
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        os.close(self._to)
        os.close(self._from)
        try:
            self._process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, url, *, width=1280, height=900, dark=False):
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session, url)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=url)
        page.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")
        page.settle()
        return page

    def call(self, method, parameters=None, session=None):
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            if "method" in answer and answer.get("sessionId") in self._pages:
                self._pages[answer["sessionId"]].heard(answer)

    def _next(self, deadline, method):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no answer to {method} in {WAIT_SECONDS} s"
            data = os.read(self._from, 1 << 16)
            assert data, f"the browser ended during {method}"
            self._rest += data
        found, _, self._rest = self._rest.partition(b"\0")
        return json.loads(found)
