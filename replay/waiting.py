"""How a task waits for what another one does: by a bare future under asyncio, by an event elsewhere.

Knows the two ways to suspend a task; must not know what is waited for. An `anyio.Event` asks which library runs at each
call and wraps a queue of futures around the one that is needed; with hundreds of tasks that was a third of an append.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator, Iterable
from typing import Any, Protocol

import anyio
import anyio.lowlevel


class Waiter(Protocol):
    """Awaited by one task until another wakes it. Cancelling the one that waits is no error for the other."""

    def __await__(self) -> Generator[Any, Any, None]: ...


class Waiting(Protocol):
    """The waiters of the library that runs now."""

    def waiter(self) -> Waiter: ...

    def wake(self, waiters: Iterable[Any]) -> None:
        """Lets the tasks that await them go on. Once is enough; more often does nothing."""
        ...

    def turn(self) -> Awaitable[None]:
        """Lets every task that is ready run once."""
        ...


def waiting() -> Waiting:
    """Called inside a task."""
    try:
        native = asyncio.current_task() is not None
    except RuntimeError:  # no loop of asyncio is running
        native = False
    return _Futures() if native else _Events()


class _Futures:
    """asyncio, or a loop like it."""

    def __init__(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future

    def wake(self, waiters: Iterable[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():  # nor cancelled
                waiter.set_result(None)

    @staticmethod
    @types.coroutine
    def turn() -> Generator[None, None, None]:
        """What `asyncio.sleep(0)` comes to."""
        yield


class _Event:
    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event = anyio.Event()

    def __await__(self) -> Generator[Any, Any, None]:
        return self.event.wait().__await__()


class _Events:
    """trio."""

    def waiter(self) -> _Event:
        return _Event()

    def wake(self, waiters: Iterable[_Event]) -> None:
        for waiter in waiters:
            waiter.event.set()

    async def turn(self) -> None:
        await anyio.lowlevel.checkpoint()
