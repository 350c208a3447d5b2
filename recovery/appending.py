"""Appending an operator's events: by the writer that is there, or as the writer itself."""

from __future__ import annotations

from collections.abc import Sequence

from journal.commit import Receipt
from journal.events import Event
from recovery.control.writer import commit_events, open_writer
from recovery.data import Data


def append_groups(data: Data, groups: Sequence[Sequence[Event]], *, actor: str = "operator") -> list[list[Receipt]]:
    """Journals and applies groups of events, each all or none, and returns their receipts.

    Raises as `open_core` does, and Refused for the first group that is refused; those before it stand.
    """
    with open_writer(data) as writer:
        return [commit_events(writer, group, actor=actor) for group in groups]
