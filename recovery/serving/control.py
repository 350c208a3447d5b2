"""Stopping and starting the server, as journal.yaml says: by systemd, by commands, over HTTP, or not at all."""

from __future__ import annotations

import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Protocol
from urllib.response import addinfourl

from journal.errors import EnvironmentFault
from recovery.data import Data
from recovery.serving.holding import users_of

_RUNNING = ("active", "reloading", "deactivating", "refreshing")
"""Of systemd's unit states. A unit that is activating runs `journal recover` as its own ExecStartPre, perhaps: stopping
it there would end the recovery, and it comes up by itself."""


class ControlFailed(EnvironmentFault):
    """The server could not be stopped or started."""

    code = "server_control"


class ServerControl(Protocol):
    """How a server is stopped and started. Both return once it is done, and raise EnvironmentFault if it is not."""

    def is_running(self) -> bool: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Systemd:
    """A unit, by `systemctl`."""

    def __init__(self, unit: str, *, user: bool = False, seconds: float = 60.0) -> None:
        self._systemctl = ["systemctl", *(["--user"] if user else [])]
        self._unit = unit
        self._seconds = seconds

    def is_running(self) -> bool:
        asked = [*self._systemctl, "show", "--property=ActiveState", "--value", "--", self._unit]
        return run(asked, self._seconds, "asking").strip() in _RUNNING

    def start(self) -> None:
        run([*self._systemctl, "start", "--", self._unit], self._seconds, "starting")

    def stop(self) -> None:
        run([*self._systemctl, "stop", "--", self._unit], self._seconds, "stopping")


class Command:
    """A program for each: `start` and `stop` end once it is done, `status` exits 0 while the server runs."""

    def __init__(
        self, data: Data, start: Sequence[str], stop: Sequence[str], status: Sequence[str] = (), seconds: float = 60.0
    ) -> None:
        self._data = data
        self._start, self._stop, self._status = start, stop, status
        self._seconds = seconds

    def is_running(self) -> bool:
        if not self._status:
            return bool(users_of(self._data))
        try:
            run(self._status, self._seconds, "asking")
        except Unsuccessful:
            return False
        return True

    def start(self) -> None:
        run(self._start, self._seconds, "starting")

    def stop(self) -> None:
        run(self._stop, self._seconds, "stopping")


class Http:
    """A supervisor that takes a POST for each. The server runs while a process uses the data directory."""

    def __init__(self, data: Data, start: str, stop: str, *, token: str = "", seconds: float = 60.0) -> None:
        self._data = data
        self._start, self._stop = start, stop
        self._token = token
        self._seconds = seconds

    def is_running(self) -> bool:
        return bool(users_of(self._data))

    def start(self) -> None:
        self._post(self._start, "starting")

    def stop(self) -> None:
        self._post(self._stop, "stopping")

    def _post(self, url: str, doing: str) -> None:
        try:
            with request("POST", url, self._token, self._seconds):
                pass
        except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
            raise ControlFailed(f"{doing} the server by {url} failed: {error}", hint="start it by hand") from None


def server_control(data: Data) -> ServerControl | None:
    """The control that journal.yaml names; None where recovery is to stop and start nothing."""
    server = data.config.server
    match server.control:
        case "systemd":
            return Systemd(server.unit, user=server.user, seconds=server.timeout_seconds)
        case "command":
            return Command(data, server.start, server.stop, server.status, server.timeout_seconds)
        case "http":
            urls = (server.start_url, server.stop_url)
            return Http(data, *urls, token=data.server_token(), seconds=server.timeout_seconds)
        case _:
            return None


# -- the means --------------------------------------------------------------------------------------------------------


class Unsuccessful(ControlFailed):
    """The program ran, and said no by its exit code."""


def run(words: Sequence[str], seconds: float, doing: str) -> str:
    """What a program printed. Raises Unsuccessful and ControlFailed.

    Its output goes to files, not pipes: a server that it starts may keep them open for ever. A session of its own keeps
    a Ctrl-C that ends the recovery from reaching that server.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                [*words], stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            raise ControlFailed(f"{doing} the server failed: {words[0]}: {error.strerror}") from None
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            hint = "server.timeout_seconds says how long it may take"
            raise ControlFailed(f"{doing} the server: {words[0]} did not end within {seconds:g} s", hint=hint) from None
        out.seek(0)
        if code != 0:
            err.seek(0)
            said = err.read(4096).decode(errors="replace").strip().splitlines()
            why = f": {said[-1][:300]}" if said else ""
            raise Unsuccessful(f"{doing} the server: {words[0]} ended with {code}{why}")
        return out.read(65536).decode(errors="replace")


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a server of this machine is behind no proxy


def request(method: str, url: str, token: str, seconds: float) -> addinfourl:
    """The answer, of whatever good status. Raises OSError (urllib's errors are such), ValueError for no address."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    asked = urllib.request.Request(url, method=method, headers=headers, data=b"" if method == "POST" else None)
    answer: addinfourl = _OPENER.open(asked, timeout=seconds)
    return answer
