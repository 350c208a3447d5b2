"""Tickets as they travel: an operator's request to the process that commits it, and lines with an answer to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from journal.commit import Receipt, Ticket, draft, ticket
from journal.errors import JournalError, Refused, from_json
from journal.event_json import event_from_json, event_to_json
from recovery.append_line import ticket_of

Answer = list[Receipt] | JournalError
"""What became of one line: the receipts of its events, or why it was not taken."""


def request_of(request: Ticket, op_id: str) -> dict[str, Any]:
    """A ticket as JSON; each draft with the envelope of its own."""
    drafts = [(event_to_json(each.event), each.agent, each.actor, each.traceparent) for each in request.drafts]
    return {"drafts": drafts, "op_id": op_id, "after_seq": request.after_seq}


def ticket_of_request(drafts: Sequence[Sequence[Any]], op_id: str | None, after_seq: int | None) -> Ticket:
    """The ticket that `request_of` was given. The journal's own events are taken too: a verb made them."""
    return ticket([draft(event_from_json(event), *envelope) for event, *envelope in drafts], op_id, after_seq)


def told_of(answer: Answer) -> dict[str, Any]:
    """An answer as JSON; `answer_of` reads it."""
    return {"error": answer.to_json()} if isinstance(answer, JournalError) else {"receipts": answer}


def answer_of(told: dict[str, Any]) -> Answer:
    return from_json(told["error"]) if "error" in told else msgspec.convert(told["receipts"], list[Receipt])


def answers_to(requests: Sequence[Ticket]) -> list[Answer]:
    """What became of tickets that are settled."""
    return [each.error or each.receipts for each in requests]


def commit_lines(settle: Callable[[Sequence[Ticket]], object], lines: Sequence[bytes]) -> list[Answer]:
    """An answer to each line of `journal append`; what waits together shares its syncs."""
    requests: list[Ticket | Refused] = []
    for line in lines:
        try:
            requests.append(ticket_of(line))
        except Refused as refused:
            requests.append(refused)
    settle([each for each in requests if isinstance(each, Ticket)])
    return [each if isinstance(each, Refused) else each.error or each.receipts for each in requests]
