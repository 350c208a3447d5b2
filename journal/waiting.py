"""Tickets that wait for room on the disk: bounded in bytes, the most critical first, unacknowledged until durable.

Knows tickets and their order; must not know disks, nor what makes one critical: that is a function it is given.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from journal.ticket import Ticket

BATCH_TICKETS = 1024


class _Place(NamedTuple):
    """In order of level, then of arrival; no two have the same number, so tickets are never compared."""

    level: int
    number: int
    ticket: Ticket


class WaitingRoom:
    """`level` gives 0 to what an agent writes that is the most critical, and more to what can rather be refused."""

    def __init__(self, bytes_max: int, level: Callable[[str | None], int]) -> None:
        self._bytes_max = bytes_max
        self._level = level
        self._places: list[_Place] = []
        self._bytes = 0
        self._number = 0

    def __len__(self) -> int:
        return len(self._places)

    def admit(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Takes them in, and returns those that have to go for it: the newest of the least critical."""
        for request in tickets:
            if request.waits:
                continue
            request.waits = True
            self._number += 1
            insort(self._places, _Place(self._level(request.drafts[0].agent), self._number, request))
            self._bytes += request.bytes
        refused = []
        while self._bytes > self._bytes_max:
            refused.append(self._leave(len(self._places) - 1))
        return refused

    def draw(self) -> list[Ticket]:
        """The oldest of the most critical, and of no other level: what is less so must not keep them from fitting."""
        count = 0
        for place in self._places[:BATCH_TICKETS]:
            if place.level != self._places[0].level:
                break
            count += 1
        return [self._leave(0) for _ in range(count)]

    def empty(self) -> list[Ticket]:
        """Everything, in order."""
        return [self._leave(0) for _ in range(len(self._places))]

    def _leave(self, index: int) -> Ticket:
        request = self._places.pop(index).ticket
        self._bytes -= request.bytes
        request.waits = False
        return request
