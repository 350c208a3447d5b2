"""What a service manager is told, and what it hands over: sd_notify(3) and sd_listen_fds(3), a datagram and three
variables. Where the process was not started by one, all of it does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import monotonic

_FIRST_FD = 3
_EXTEND_SECONDS = 5.0


def notify(*lines: str) -> bool:
    """Sends states such as ``READY=1`` to the manager. False where there is none, or where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send("\n".join(lines).encode())
        return True
    return False


def extend_timeout(seconds: int) -> None:
    """Asks for more time to start or to stop: a rebuild is no hang."""
    notify(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}")


def extending(step: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """A progress callback that also asks the manager for a minute more, every few seconds while there is progress."""
    asked = float("-inf")

    def extended(label: str, done: int, total: int) -> None:
        nonlocal asked
        if monotonic() - asked > _EXTEND_SECONDS:
            asked = monotonic()
            extend_timeout(60)
        step(label, done, total)

    return extended


def watchdog_seconds() -> float:
    """Within how many seconds the manager wants to hear again that this process is alive; 0 where it does not ask."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(usec) / 1_000_000


@contextmanager
def watchdog(alive: Event) -> Iterator[None]:
    """While the block runs and `alive` is set, the manager's watchdog is fed, twice as often as it asks for."""
    seconds = watchdog_seconds()
    if not seconds:
        yield
        return
    stop = Event()

    def feed() -> None:
        while not stop.wait(seconds / 2):
            if alive.is_set():
                notify("WATCHDOG=1")

    thread = Thread(target=feed, name="journal-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def activated_sockets() -> list[socket.socket]:
    """The listening sockets that were handed over by socket activation; none without it."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not os.environ.get("LISTEN_FDS", "").isdecimal():
        return []
    count = int(os.environ["LISTEN_FDS"])
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # children have other descriptors under these numbers
    sockets = [socket.socket(fileno=fd) for fd in range(_FIRST_FD, _FIRST_FD + count)]
    for each in sockets:
        each.set_inheritable(False)
    return sockets
