"""Appending an operator's events: opens the journal as its writer, commits them, closes it."""

from __future__ import annotations

from collections.abc import Sequence

from journal.commit import Receipt, draft, ticket
from journal.events import Event
from recovery.data import Data
from recovery.server import open_core


def append_groups(data: Data, groups: Sequence[Sequence[Event]], *, actor: str = "operator") -> list[list[Receipt]]:
    """Journals and applies groups of events, each all or none, and returns their receipts.

    Raises as `open_core` does, and Refused for the first group that is refused; those before it stand.
    """
    core = open_core(data, check="quick").core
    try:
        receipts = []
        for group in groups:
            request = ticket([draft(event, None, actor, None) for event in group], None)
            with core.lock:
                core.committer.commit_now(request)
            receipts.append(request.result())
        return receipts
    finally:
        core.close()
