"""A headless Chromium that opens local pages, driven by its DevTools protocol over a pipe: no port, no network."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # containers allow no user namespaces; the pages are our own
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--force-color-profile=srgb",
    "about:blank",
)
# The pipe is read from descriptor 3 and written to 4, whatever numbers it was made with.
ON_3_AND_4 = "import os, sys; [os.dup2(int(sys.argv[n]), n + 2) for n in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
PATIENCE = 30.0


def installed() -> str | None:
    """Chromium's program: $CHROMIUM, or the first of the usual names that is on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser with one page; a context manager that leaves neither a process nor a file behind.

    Attributes:
        complaints: what the console, the log and failed scripts said since the last `open`.
        requests: addresses the page asked for since then.
    """

    def __init__(self, program: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="chromium-")
        theirs_in, self._out = _pipe()
        self._in, theirs_out = _pipe()
        command = [program, *SWITCHES[:-1], f"--user-data-dir={self._folder}", SWITCHES[-1]]
        self._process = subprocess.Popen(
            [sys.executable, "-c", ON_3_AND_4, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._calls = 0
        self._loaded = False
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Chromium:
        try:
            targets = self._call("Target.getTargets")["targetInfos"]
            page = next(target["targetId"] for target in targets if target["type"] == "page")
            self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def open(self, page: Path, *, width: int = 1280, scheme: str = "light", scripts: bool = True) -> None:
        """Show a file in a window so many pixels wide, for somebody who prefers `light` or `dark`."""
        self.complaints, self.requests, self._loaded = [], [], False
        self._call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Page.navigate", url=page.absolute().as_uri())
        while not self._loaded:
            self._read()
        self._call("Emulation.setScriptExecutionDisabled", value=False)  # of what tests evaluate

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, as JSON holds it."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard, such as ArrowLeft, Tab or Space."""
        code = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowDown": 40, "Tab": 9, "Home": 36, "End": 35, "Space": 32}[key]
        named = {"key": " ", "code": key, "text": " "} if key == "Space" else {"key": key, "code": key}
        self._call("Input.dispatchKeyEvent", type="keyDown", windowsVirtualKeyCode=code, **named)
        named.pop("text", None)
        self._call("Input.dispatchKeyEvent", type="keyUp", windowsVirtualKeyCode=code, **named)

    def drag(self, start: float, end: float, height: float) -> None:
        """The mouse from left to right or back, pressed, at one height of the window."""
        moves = (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end))
        for kind, place in moves:
            self._call("Input.dispatchMouseEvent", type=kind, x=place, y=height, button="left", buttons=1, clickCount=1)

    def screenshot(self, clip: dict[str, float] | None = None) -> bytes:
        """The whole page, or a part of it given by x, y, width and height, as a PNG."""
        part = {"clip": {**clip, "scale": 1}} if clip else {}
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, **part)
        return base64.b64decode(found["data"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        message: dict[str, Any] = {"id": self._calls, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._calls:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        """The next message, taken note of."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], PATIENCE)
            assert ready, f"Chromium has said nothing for {PATIENCE} seconds"
            data = os.read(self._in, 2**20)
            assert data, f"Chromium has ended with {self._process.wait()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, told: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(json.dumps(told))


def _pipe() -> tuple[int, int]:
    """Both ends, beyond the descriptors that Chromium is given."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
