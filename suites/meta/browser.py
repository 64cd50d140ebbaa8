"""A headless Chromium, driven over a pipe by its own protocol: no driver, no port, no package.

The protocol is documented at https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

from harness.browser import executable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",  # a container has no user namespaces; the page is our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_KEYS: Final = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "End": (35, "")} | {
    f"Arrow{side}": (37 + place, "") for place, side in enumerate(("Left", "Up", "Right", "Down"))
}


class PageError(AssertionError):
    """What the browser could not do, or an exception of the page's script."""


class Page:
    """One page of a browser; what it logs and asks the network for is kept."""

    def __init__(self, into: IO[bytes], out: IO[bytes]) -> None:
        self._into, self._out = into, out
        self._session: dict[str, str] = {}
        self._last = 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        found = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": found["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file and wait until it is there."""
        self._loaded = False
        self._send("Page.navigate", url="about:blank")
        self._wait()
        self.requests.clear()
        self._loaded = False
        self._send("Page.navigate", url=path.as_uri() + fragment)
        self._wait()

    def ask(self, expression: str) -> Any:  # noqa: ANN401 - whatever the expression is
        """The value of an expression in the page, a promise's after it was kept."""
        found = self._send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise PageError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait, a frame at a time and 300 at most, until an expression is true."""
        self.ask(
            "new Promise((kept, broken) => { let left = 300; const look = () => "
            f"({expression}) ? kept() : left-- ? requestAnimationFrame(look)"
            f" : broken(new Error({json.dumps(expression)})); look(); }})"
        )

    def press(self, key: str) -> None:
        """Press and release a key."""
        code, text = _KEYS[key]
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._send("Input.dispatchKeyEvent", type="keyDown", text=text, **facts)
        self._send("Input.dispatchKeyEvent", type="keyUp", **facts)

    def type(self, text: str) -> None:
        """Type text where the focus is."""
        self._send("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, touch: bool = False) -> None:
        """Make the window that large, in CSS pixels; ``touch`` for a phone."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )

    def prefer(self, **features: str) -> None:
        """Set media features, such as ``prefers_color_scheme="dark"``."""
        listed = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self._send("Emulation.setEmulatedMedia", features=listed)

    def allow_scripts(self, *, allowed: bool) -> None:
        """Switch JavaScript on or off for pages to come."""
        self._send("Emulation.setScriptExecutionDisabled", value=not allowed)

    def photograph(self, path: Path) -> None:
        """Write a PNG of what is in the window."""
        found = self._send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def _wait(self) -> None:
        while not self._loaded:
            self._take(self._read())

    def _send(self, method: str, **params: object) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params, **self._session}
        self._into.write(json.dumps(message).encode() + b"\0")
        self._into.flush()
        while True:
            found = self._read()
            if found.get("id") == self._last:
                break
            self._take(found)
        if "error" in found:
            msg = f"{method}: {found['error']}"
            raise PageError(msg)
        result: dict[str, Any] = found["result"]
        return result

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._out.read(1)) != b"\0":
            if not byte:
                msg = "the browser has ended"
                raise PageError(msg)
            message += byte
        found: dict[str, Any] = json.loads(message)
        return found

    def _take(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(params["args"]))


def _start(command: Sequence[str], commands: int, answers: int) -> subprocess.Popen[bytes]:
    """Start the browser, which reads commands from descriptor 3 and answers to 4."""
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]  # none is 3 or 4
    program = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
        "os.execv(sys.argv[3], sys.argv[3:])"
    )
    try:
        return subprocess.Popen(
            [sys.executable, "-S", "-c", program, *map(str, ends), *command],
            pass_fds=ends,
            stderr=subprocess.DEVNULL,
        )
    finally:
        for end in ends:
            os.close(end)


@contextmanager
def browser() -> Iterator[Page]:
    """A browser of our own with an empty profile; it ends with the scope."""
    read_commands, write_commands = os.pipe()
    read_answers, write_answers = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [executable(), *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        process = _start(command, read_commands, write_answers)
        os.close(read_commands)
        os.close(write_answers)
        with os.fdopen(write_commands, "wb") as into, os.fdopen(read_answers, "rb") as out:
            try:
                yield Page(into, out)
            finally:
                process.kill()
                process.wait()
