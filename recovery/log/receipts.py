"""Receipts as users hand them in: one, or JSON Lines of them, as `journal append` printed them; and their proof.

Knows the spellings of a receipt; what proves one is `journal.verify`'s.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from itertools import groupby
from typing import NamedTuple

import msgspec

from journal.commit import Receipt
from journal.errors import DataError, JournalError, UsageError
from journal.reader import LogReader
from journal.scan import Batch
from journal.witness import ParentChains, prove, prove_in

_FIELDS = ", ".join(Receipt.__struct_fields__)


class Proof(NamedTuple):
    """A receipt with what speaks against it, if anything does."""

    receipt: Receipt
    error: JournalError | None


def parse_receipts(text: str) -> list[Receipt]:
    """The receipts of a JSON object or of JSON Lines; lines that `append` refused carry none and are passed over.

    Raises UsageError, naming the line, for anything else and where there is no receipt at all.
    """
    found: list[Receipt] = []
    whole = _object(text)
    documents = [(1, whole)] if whole is not None else list(_lines(text))
    for number, document in documents:
        if "error" in document and "seq" not in document:
            continue
        try:
            found.append(msgspec.convert(document, Receipt))
        except msgspec.ValidationError as error:
            raise UsageError(f"line {number} is no receipt: {error}", hint=f"a receipt has {_FIELDS}") from None
    if not found:
        raise UsageError("there is no receipt to prove", hint="give what journal append printed")
    return found


def _object(text: str) -> dict[str, object] | None:
    """The text as one JSON object, over however many lines; None if it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _lines(text: str) -> list[tuple[int, dict[str, object]]]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            document = _object(line)
            if document is None:
                raise UsageError(f"line {number} is no JSON object: {line[:80]!r}", hint=f"a receipt has {_FIELDS}")
            found.append((number, document))
    return found


def prove_all(reader: LogReader, receipts: list[Receipt]) -> list[Proof]:
    """Each receipt with its verdict, in order. Each segment that holds any of their events is read once."""
    parents = ParentChains(reader)
    firsts = [segment.first_seq for segment in reader.segments]
    by_seq = sorted(range(len(receipts)), key=lambda index: receipts[index].seq)
    verdicts: dict[int, JournalError | None] = {}
    for _, group in groupby(by_seq, key=lambda index: bisect_right(firsts, receipts[index].seq)):
        indexes = deque(group)
        seqs = receipts[indexes[0]].seq, receipts[indexes[-1]].seq
        try:
            for batch in reader.batches(max(1, seqs[0]), min(seqs[1], reader.last_seq)):
                while indexes and receipts[indexes[0]].seq <= batch.last_seq:
                    index = indexes.popleft()
                    verdicts[index] = _verdict(reader, receipts[index], batch, parents)
        except DataError as error:  # what lies in damaged bytes is not proven
            verdicts |= dict.fromkeys(indexes, error)
            indexes.clear()
        for index in indexes:
            verdicts[index] = _verdict(reader, receipts[index], None, parents)
    return [Proof(receipt, verdicts[index]) for index, receipt in enumerate(receipts)]


def _verdict(
    reader: LogReader, receipt: Receipt, batch: Batch | None, parents: ParentChains
) -> JournalError | None:
    try:
        if batch is not None and batch.first_seq <= receipt.seq:
            prove_in(batch, receipt, reader.directory, parents)
        else:
            if receipt.seq > reader.last_seq:  # the receipt is evidence: what lies at the tail was durable
                reader.evidence_seq = max(reader.evidence_seq, receipt.seq)
                reader.raise_for_tail()
            prove(reader, receipt, parents)
    except JournalError as error:
        return error
    return None
