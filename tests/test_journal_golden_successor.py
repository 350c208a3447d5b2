"""A successor that version 1 wrote opens for ever: what survived of the golden journal, a mark for each lost event."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from journal.event_json import event_from_json, event_to_json
from journal.events import type_dictionary
from journal.log import Log
from journal.reader import LogReader
from journal.storage import RealStorage
from journal.verify import verify
from tests.second_reader import Wrong, check_successor, read_journal, segments_in
from tests.test_journal_golden import GOLDEN, read_with_the_project, spelled

DIRECTORY = GOLDEN / "v1-successor" / "journal"


def expected() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DIRECTORY.parent / "expected.json").read_text(encoding="utf-8"))
    return loaded


def read_both() -> list[list[dict[str, Any]]]:
    return [read_with_the_project(DIRECTORY)[1], [spelled(each) for each in read_journal(DIRECTORY).records]]


def in_full(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the fields that its type got since, at their defaults."""
    return {**record, "event": event_to_json(event_from_json(record["event"]))}


def test_both_readers_find_what_survived_and_a_mark_in_the_place_of_what_did_not() -> None:
    wanted = expected()
    for records in read_both():
        assert len(records) == len(wanted["records"]) + 1
        for seq, (record, was) in enumerate(zip(records, wanted["records"], strict=False), 1):
            if was is None:
                assert seq in wanted["lost"]
                assert record["event"]["type"] == "journal.event_lost"
                assert record["event"]["first_seq"] <= seq <= record["event"]["last_seq"]
            else:
                assert in_full(record) == in_full(was)
        forked = records[-1]["event"]
        assert (forked["type"], forked["parent_journal_id"]) == ("journal.forked", wanted["parent_journal_id"])
        assert [seq for first, last in forked["lost"] for seq in range(first, last + 1)] == wanted["lost"]


def test_the_header_names_the_parent_where_its_chain_is_the_same_and_what_was_lost() -> None:
    reader = LogReader(RealStorage(), str(DIRECTORY))
    parent = reader.parent
    assert parent is not None
    assert parent.journal_id.hex() == expected()["parent_journal_id"]
    assert parent.chain == LogReader(RealStorage(), str(GOLDEN / "v1" / "journal")).chain_at(parent.seq)
    assert parent.chain == reader.chain_at(parent.seq)
    assert [seq for first, last in parent.lost for seq in range(first, last + 1)] == expected()["lost"]


def test_it_has_more_than_one_segment_and_the_tags_of_version_1() -> None:
    segments = [segment for _, _, segment in segments_in(DIRECTORY)]
    assert len(segments) > 1
    assert [segment.parent is not None for segment in segments] == [True] + [False] * (len(segments) - 1)
    for segment in segments:
        assert segment.types == {tag: name for name, tag in type_dictionary().items() if tag <= 31}


def test_it_can_be_written_on(tmp_path: Path) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "journal")
    log = Log.open(RealStorage(), str(tmp_path / "journal"))
    assert (log.opening.clean, log.epoch) == (True, 10)
    log.close()
    assert verify(RealStorage(), str(tmp_path / "journal")).findings == []


def test_a_header_that_names_other_losses_than_are_marked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = LogReader(RealStorage(), str(DIRECTORY)).parent
    assert parent is not None
    less = type(parent)(parent.journal_id, parent.seq, parent.chain, parent.lost[1:])
    monkeypatch.setattr("journal.verify_log.parent_of", lambda header, path: less)
    assert verify(RealStorage(), str(DIRECTORY)).exit_code == 12
    first = next(segment for _, _, segment in segments_in(DIRECTORY))
    assert first.parent is not None
    first.parent["lost"].pop()
    with pytest.raises(Wrong, match="is lost"):
        check_successor(first, read_journal(DIRECTORY))
