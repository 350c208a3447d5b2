"""Journaling the journal's own doings where no live state is open: nothing can refuse them."""

from __future__ import annotations

from collections.abc import Sequence

from journal.commit import Committer, Receipt, draft, ticket
from journal.events import Event
from journal.log import Appended, Log
from journal.record import Record

ACTOR = "journal"


class Unprojected:
    """The state machine of events that project nothing: it accepts all and has always applied all."""

    applied_seq = 1 << 62

    def check_all(self, events: Sequence[Event], seq: int) -> bool:
        return True

    def check(self, event: Event, seq: int) -> None: ...

    def mark(self) -> int:
        return 0

    def rollback(self, mark: int) -> None: ...

    def stage(self, appended: Appended, records: Sequence[Record]) -> None: ...

    def apply(self, appended: Appended, records: Sequence[Record]) -> None: ...


def journal_event(log: Log, event: Event, *, actor: str = ACTOR) -> Receipt:
    """Appends one event and returns its receipt once it is durable. Raises as `Log.append` does."""
    return journal_events(log, (event,), actor=actor)[0]


def journal_events(log: Log, events: Sequence[Event], *, actor: str = ACTOR) -> list[Receipt]:
    """The same for a group, all or none."""
    committer = Committer(log, Unprojected(), remember_op_ids=False)
    request = ticket([draft(event, None, actor, None) for event in events], None)
    committer.submit(request)
    with log.into_reserve():
        committer.run()
    return request.result()
