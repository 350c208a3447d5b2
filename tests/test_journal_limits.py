"""What one event may be: every field at its limit and one past it, names that lead astray, bytes in both spellings."""

from __future__ import annotations

import hashlib
import math
import sys
from typing import Any

import msgspec
import pytest

from journal.errors import Refused
from journal.events import (
    ConfigRejected,
    ConfigRemoved,
    ConfigWritten,
    CursorMoved,
    EntityCreated,
    EntityUpdated,
    EpochStarted,
    Event,
    ImportCompleted,
    JournalEventLost,
    JournalForked,
    MessageRecorded,
    ModelVerified,
    ObservationAdded,
    RecoveryStarted,
    RelationCreated,
    RelationUpdated,
    StateRestored,
    StatusChanged,
    TagCreated,
)
from journal.limits import admit, check_envelope, refuse_reserved


def refusal(event: Event) -> Refused:
    with pytest.raises(Refused) as refused:
        admit(event)
    return refused.value


def entity(name: Any = "Acme", **fields: Any) -> EntityCreated:
    return EntityCreated(**{"scope": "global", "name": name, "entity_type": "company", **fields})


# -- what is admitted is what will be read back ------------------------------------------------------------------------


def test_what_is_admitted_decodes_to_itself() -> None:
    event = entity(metadata={"a": [1, 2.5, None, {"b": "😀"}]}, confidence=0.25)
    admitted, data = admit(event)
    assert admitted == event
    assert msgspec.msgpack.decode(data, type=EntityCreated) == event


def test_the_caller_cannot_change_an_admitted_event() -> None:
    metadata = {"tags": ["a"]}
    admitted, _ = admit(entity(metadata=metadata))
    metadata["tags"].append("b")
    assert admitted.metadata == {"tags": ["a"]}


def test_a_whole_number_where_a_float_belongs_is_stored_as_one() -> None:
    admitted, data = admit(RelationCreated("global", "a", "b", "knows", strength=1, confidence=0))
    assert (type(admitted.strength), type(admitted.confidence)) == (float, float)
    assert data == admit(RelationCreated("global", "a", "b", "knows", strength=1.0, confidence=0.0))[1]


def test_the_sha256_of_a_config_is_filled_in_and_must_match() -> None:
    digest = hashlib.sha256(b"body").hexdigest()
    admitted, data = admit(ConfigWritten("writer", b"body"))
    assert admitted.sha256 == digest
    assert msgspec.msgpack.decode(data, type=ConfigWritten).sha256 == digest
    assert admit(ConfigWritten("writer", b"body", digest.upper()))[0].sha256 == digest
    assert digest in refusal(ConfigWritten("writer", b"body", "0" * 64)).message


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (entity(b"Acme"), "name"),
        (entity(None), "name"),
        (entity(confidence="high"), "confidence"),
        (entity(confidence=True), "confidence"),
        (entity(metadata=[1]), "metadata"),
        (entity(metadata={1: "x"}), "metadata"),
        (ConfigWritten("writer", "text"), "content"),
        (ObservationAdded("global", "Acme", b"bytes"), "content"),
        (ImportCompleted("x", {}, [1]), "left_out"),
        (TagCreated("t", "12"), "seq"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_field(event: Event, field: str) -> None:
    error = refusal(event)
    assert error.code == "invalid"
    assert error.message.startswith(f"{event.type_name}: Expected")
    assert error.message.endswith(f"in {field}")


def test_an_unregistered_type_is_refused() -> None:
    class Stray(EntityCreated, tag=1, tag_field="type"):
        pass

    class Bare(Event):
        x: int = 0

    assert refusal(Stray("global", "Acme", "company")).code == "unknown_type"
    assert refusal(Bare()).code == "unknown_type"


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
@pytest.mark.parametrize("place", ["name", "metadata", "content"])
def test_a_lone_surrogate_is_no_text(text: str, place: str) -> None:
    event: Event = ObservationAdded("global", "Acme", text)
    if place != "content":
        event = entity(text) if place == "name" else entity(metadata={"k": text})
    assert "lone surrogate" in refusal(event).message


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x" * 512, "é" * 256, "😀" * 128, " Acme ", "a\u202eb", "../up", "\ufeff", "e\u0301"])
def test_any_other_name_is_taken_as_it_is(name: str) -> None:
    assert admit(entity(name))[0].name == name


@pytest.mark.parametrize("name", ["x" * 513, "é" * 257, "😀" * 128 + "x"])
def test_a_name_is_bounded_by_its_bytes(name: str) -> None:
    error = refusal(entity(name))
    assert (error.code, "the limit is 512" in error.message) == ("too_large", True)


@pytest.mark.parametrize("character", ["\0", "\n", "\t", "\x1b", "\x7f", "\x85", "\x9f"])
def test_control_characters_are_refused_in_every_name(character: str) -> None:
    bad = f"a{character}b"
    for event in (
        entity(bad),
        entity(entity_type=bad),
        entity(scope=f"workspace:{bad}"),
        EntityUpdated("global", "a", bad),
        RelationCreated("global", "a", "b", bad),
        RelationUpdated("global", bad, "b", "knows"),
        MessageRecorded("c", "writer", "user", "text", bad),
        MessageRecorded(bad, "writer", "user", "text", "m"),
        CursorMoved(bad, "m"),
        TagCreated(bad, 1),
        ConfigRemoved(bad),
    ):
        error = refusal(event)
        assert error.code == "unsafe_name"
        assert f"U+{ord(character):04X} at 1" in error.message


def test_an_empty_name_is_refused() -> None:
    for event in (entity(""), entity(scope="agent:"), ConfigWritten("", b""), RelationCreated("global", "", "b", "k")):
        assert "is empty" in refusal(event).message


@pytest.mark.parametrize("scope", ["", "Global", "global ", "workspace", "workspace:", "team:x", ":x", "agent"])
def test_what_is_no_scope_is_refused(scope: str) -> None:
    assert refusal(entity(scope=scope)).code == "invalid"


@pytest.mark.parametrize("name", ["x.agent", "powershell-5.1-expert", ".hidden", "...", "a b", "x" * 252, "é" * 126])
def test_an_agent_may_be_called_what_a_file_may(name: str) -> None:
    assert admit(ConfigWritten(name, b""))[0].name == name


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "a\\b", "..\\x", ".", "..", " x", "x ", "\u00a0x", "x\n", "x" * 253, "é" * 127],
)
def test_an_agent_name_cannot_leave_its_directory(name: str) -> None:
    for event in (
        ConfigWritten(name, b""),
        ConfigRemoved(name),
        StatusChanged(name, "active"),
        ConfigRejected(name, b""),
    ):
        assert refusal(event).code in ("unsafe_name", "too_large")


@pytest.mark.parametrize("event", [StatusChanged("writer", "gone"), ConfigRemoved("writer", origin="elsewhere")])
def test_a_value_out_of_its_list_is_refused_with_the_list(event: Event) -> None:
    assert "it can be" in refusal(event).message


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_contents_are_taken_up_to_their_limit() -> None:
    assert len(admit(ConfigWritten("writer", bytes(1 << 20)))[0].content) == 1 << 20
    assert len(admit(ObservationAdded("global", "Acme", "é" * (1 << 17)))[0].content) == 1 << 17
    admit(MessageRecorded("c", "writer", "user", "\0" * (1 << 18), "m"))


@pytest.mark.parametrize(
    ("event", "limit"),
    [
        (ConfigWritten("writer", bytes((1 << 20) + 1)), 1 << 20),
        (ConfigRejected("writer", bytes((1 << 20) + 1)), 1 << 20),
        (ObservationAdded("global", "Acme", "é" * (1 << 17) + "x"), 1 << 18),
        (MessageRecorded("c", "writer", "user", "x" * ((1 << 18) + 1), "m"), 1 << 18),
        (StatusChanged("writer", "failed", "x" * ((1 << 18) + 1)), 1 << 18),
        (entity(metadata={"k": "x" * 65_529}), 1 << 16),
        (ModelVerified("m", dict.fromkeys(map(str, range(10_001)), "")), 10_000),
        (ImportCompleted("x", {}, ["x" * (1 << 18)] * 9), 1 << 21),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else str(value),
)
def test_one_byte_more_is_too_large(event: Event, limit: int) -> None:
    error = refusal(event)
    assert error.code == "too_large"
    assert error.message.endswith(f"the limit is {limit}")


def test_metadata_just_within_its_size_is_taken() -> None:
    admit(entity(metadata={"k": "x" * 65_528}))


def nested(depth: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(depth - 1):
        metadata = {"k": metadata}
    return metadata


def test_metadata_is_bounded_in_depth() -> None:
    admit(entity(metadata=nested(32)))
    assert "deeper than 32" in refusal(entity(metadata=nested(33))).message
    assert "deeper than 32" in refusal(entity(metadata=nested(sys.getrecursionlimit() * 2))).message
    circle: dict[str, Any] = {}
    circle["k"] = circle
    assert "deeper than 32" in refusal(entity(metadata=circle)).message


@pytest.mark.parametrize(
    "value",
    [b"bytes", {1: 2}, [math.nan], {"a": math.inf}, 1 << 64, object(), [[{"k": b""}]]],
    ids=lambda value: type(value).__name__,
)
def test_metadata_is_json(value: Any) -> None:
    assert refusal(entity(metadata={"k": value})).code == "invalid"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(number: float) -> None:
    for event in (entity(confidence=number), RelationCreated("global", "a", "b", "k", strength=number)):
        assert "numbers are finite" in refusal(event).message


def test_a_seq_is_no_negative_number() -> None:
    assert refusal(TagCreated("t", -1)).code == "invalid"
    assert refusal(TagCreated("t", 1 << 63)).code == "invalid"
    assert refusal(RecoveryStarted("r", "memory", counts={"rows": -1})).code == "invalid"


# -- envelope and reserved types ---------------------------------------------------------------------------------------

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_an_envelope_may_be_empty_or_full() -> None:
    check_envelope()
    check_envelope("writer", "user:7", "crm-991", TRACE)


@pytest.mark.parametrize(
    "envelope",
    [
        {"agent": ""},
        {"agent": "a\0"},
        {"actor": "x" * 513},
        {"op_id": "a\nb"},
        {"op_id": 7},
        {"op_id": "\ud800"},
        {"traceparent": TRACE.upper()},
        {"traceparent": TRACE[:-1]},
        {"traceparent": "ff" + TRACE[2:]},
        {"traceparent": TRACE.replace("00f067aa0ba902b7", "0" * 16)},
        {"traceparent": 1},
    ],
    ids=repr,
)
def test_a_bad_envelope_is_refused_by_its_field(envelope: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=next(iter(envelope))):
        check_envelope(**envelope)


def test_only_the_journal_records_its_own_doings() -> None:
    refuse_reserved(entity())
    for event in (StateRestored(1), EpochStarted(2, 1), JournalForked("00", 1), JournalEventLost(1, 1)):
        with pytest.raises(Refused) as refused:
            refuse_reserved(event)
        assert refused.value.code == "reserved_type"
