"""The difference of two states: what is counted, what is listed, what is said."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.events import (
    ConfigRemoved,
    ConfigWritten,
    EntityCreated,
    EntityDeleted,
    EntityUpdated,
    Event,
    MessageRecorded,
    ObservationAdded,
    RelationCreated,
    RelationUpdated,
    ScopeCleared,
    StatusChanged,
)
from replay import schema
from replay.diff import diff
from replay.diff_words import lines, to_json, words
from replay.digest import state_digest
from replay.memory import apply_records
from tests.histories import START, Step
from tests.strategies import any_histories

AGENT = b"---\nname: writer\ntools: [read]\nmodel: small\n---\nYou write.\n"
BASE: list[Event] = [
    EntityCreated("global", "Acme", "company"),  # 1
    EntityCreated("global", "Bob", "person"),  # 2
    ObservationAdded("global", "Acme", "renewed in May"),  # 3
    ObservationAdded("global", "Bob", "likes tea"),  # 4
    RelationCreated("global", "Bob", "Acme", "works_at"),  # 5
    ConfigWritten("writer", AGENT),  # 6
    MessageRecorded("talk", "writer", "user", "hello", "m1"),  # 7
]


@contextmanager
def state(events: Sequence[Event] | Sequence[Step]) -> Iterator[sqlite3.Connection]:
    connection = schema.connect(":memory:")
    schema.create(connection)
    steps = [
        each if isinstance(each, Step) else Step(seq, START + seq, "sales", each) for seq, each in enumerate(events, 1)
    ]
    connection.execute("BEGIN")
    for step in steps:
        apply_records(connection, step.seq, [step.record()])
    connection.execute("COMMIT")
    try:
        yield connection
    finally:
        connection.close()


def told(before: Sequence[Event], after: Sequence[Event]) -> str:
    with state(before) as old, state(after) as new:
        return words(diff(old, new))


# -- in words ---------------------------------------------------------------------------------------------------------


def test_equal_states_have_no_difference():
    assert told([], []) == told(BASE, BASE) == "no difference"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([EntityCreated("agent:a", "Acme", "company")], "+1 entity"),
        ([EntityCreated("global", name, "x") for name in "abc"], "+3 entities"),
        ([EntityDeleted("global", "Bob")], "-1 entity, -1 observation, -1 relation"),
        ([ScopeCleared("global")], "-2 entities, -2 observations, -1 relation"),
        ([EntityUpdated("global", "Bob", entity_type="robot")], "1 entity changed"),
        ([RelationUpdated("global", "Bob", "Acme", "works_at", strength=0.5)], "1 relation changed"),
        ([MessageRecorded("talk", "writer", "agent", "hi", "m2")], "+1 message"),
        ([ConfigWritten("helper", b"x")], "agent helper added"),
        ([ConfigRemoved("writer")], "agent writer removed"),
        ([ConfigWritten("writer", AGENT)], "agent writer rewritten"),
        ([ConfigWritten("writer", AGENT.replace(b"[read]", b"[read, run]"))], "agent writer: tools changed"),
        ([ConfigWritten("writer", AGENT.replace(b"small", b"big") + b"Well.")], "agent writer: model, body changed"),
        ([ConfigWritten("writer", AGENT.replace(b"model: small", b"hue: 1"))], "agent writer: model, hue changed"),
        ([ConfigWritten("writer", AGENT.replace(b"[read]", b"['read']"))], "agent writer: formatting changed"),
        ([StatusChanged("writer", "suspended", "loops")], "agent writer: status, reason changed"),
        (
            [
                ConfigWritten("writer", AGENT.replace(b"[read]", b"[]")),
                EntityDeleted("global", "Bob"),
                EntityCreated("global", "Eve", "person"),
                RelationCreated("global", "Eve", "Acme", "visits"),
                RelationCreated("global", "Acme", "Eve", "knows"),
            ],
            "-1 entity, +1 entity, -1 observation, -1 relation, +2 relations, agent writer: tools changed",
        ),
    ],
)
def test_words(more: list[Event], expected: str):
    assert told(BASE, BASE + more) == expected


def test_the_other_way_round_signs_turn():
    assert told([*BASE, EntityCreated("global", "Eve", "x")], BASE) == "-1 entity"


def test_many_are_counted_with_thousands():
    many = [EntityCreated("global", f"e{number}", "x") for number in range(1500)]
    assert told([], many) == "+1,500 entities"
    with state([]) as old, state(many) as new:
        found = diff(old, new, limit=3)
        assert len(found.tables["entities"].changes) == 3
        assert list(lines(found))[-1] == "    and 1,497 more entities"
        assert to_json(found)["entities"]["not_listed"] == 1497


def test_many_agents_are_named_up_to_the_limit():
    with state([]) as old, state([ConfigWritten(f"a{number}", b"x") for number in range(5)]) as new:
        assert words(diff(old, new, limit=3)) == "agent a0 added, agent a1 added, agent a2 added, 2 more agents differ"
        assert words(diff(old, new, limit=4)).endswith("agent a3 added, 1 more agent differs")


# -- what is the same thing -------------------------------------------------------------------------------------------


def test_what_was_deleted_and_written_again_is_rewritten_not_lost():
    """Scenario: a partial restore compensates by deleting and writing again; every id is new, nothing else is."""
    again = [*BASE, EntityDeleted("global", "Acme"), BASE[0], BASE[2], BASE[4]]
    assert told(BASE, again) == "1 entity rewritten, 1 observation rewritten, 1 relation rewritten"


def test_what_was_written_again_differently_is_changed():
    again = [
        *BASE,
        EntityDeleted("global", "Acme"),
        EntityCreated("global", "Acme", "charity"),
        ObservationAdded("global", "Acme", "renewed in May", {"sure": True}),
        RelationCreated("global", "Bob", "Acme", "works_at", strength=0.25),
    ]
    with state(BASE) as old, state(again) as new:
        found = diff(old, new)
        assert words(found) == "1 entity changed, 1 observation changed, 1 relation changed"
        assert [table.changes[0].parts for table in found.tables.values() if table.changes] == [
            ("entity_type",),
            ("metadata",),
            ("strength",),
        ]


def test_a_name_taken_over_by_another_seq_is_one_change_across_buckets():
    """Scenario: the rows of one entity lie in buckets far apart, since ids are seqs."""
    filler = [EntityCreated("workspace:w", f"f{number}", "x") for number in range(1200)]
    again = [*BASE, *filler, EntityDeleted("global", "Bob"), EntityCreated("global", "Bob", "robot")]
    assert told([*BASE, *filler], again) == "1 entity changed, -1 observation, -1 relation"


def test_an_update_that_changed_nothing_but_its_time_is_told():
    with state(BASE) as old, state([*BASE, EntityUpdated("global", "Acme", confidence=1.0)]) as new:
        assert diff(old, new).tables["entities"].changes[0].parts == ("updated_at",)


def test_two_journals_can_be_compared():
    """Scenario: the ids of two histories have nothing to do with each other; the same id is another entity there."""
    names, texts = ["A", "B", "C"], ["x", "y", "z"]
    seen = [ObservationAdded("global", name, text) for name, text in zip(names, texts, strict=True)]
    one = [EntityCreated("global", name, "x") for name in "ABC"]
    other = [EntityCreated("global", name, "x") for name in "BCA"]
    talk = [MessageRecorded("talk", "writer", "user", "hello", str(number)) for number in range(3)]
    assert told([*one, *seen], [*other, *talk, *seen]) == "3 entities changed, 3 observations rewritten, +3 messages"


# -- the listing ------------------------------------------------------------------------------------------------------


def test_the_listing_says_which_and_what():
    more = [
        EntityDeleted("global", "Bob"),
        EntityCreated("workspace:ops", 'two\nlines "q"', "note"),
        ObservationAdded("global", "Acme", "x" * 200 + "\x1b"),
        EntityUpdated("global", "Acme", confidence=0.5),
        RelationCreated("global", "Acme", "Acme", "is"),
        MessageRecorded("talk", "writer", "agent", "hi\nthere", "m2"),
        StatusChanged("writer", "failed", "no tools"),
    ]
    with state(BASE) as old, state(BASE + more) as new:
        assert list(lines(diff(old, new)))[1:] == [
            "  ~ entity global/Acme (company): confidence",
            "  - entity global/Bob (person)",
            '  + entity workspace:ops/two\\nlines "q" (note)',
            '  - observation of global/Bob: "likes tea"',
            f'  + observation of global/Acme: "{"x" * 79}…"',
            "  - relation global/Bob -> Acme (works_at)",
            "  + relation global/Acme -> Acme (is)",
            '  + message talk/m2 of writer: "hi\\nthere"',
            "  ~ agent writer: status, reason",
        ]


def test_json_says_the_same():
    more = [EntityDeleted("global", "Bob"), ConfigWritten("writer", AGENT + b"More.\n")]
    with state(BASE) as old, state(BASE + more) as new:
        found = json.loads(json.dumps(to_json(diff(old, new))))
    assert found["same"] is False
    assert found["words"] == "-1 entity, -1 observation, -1 relation, agent writer: body changed"
    assert found["entities"] == {
        "added": 0,
        "removed": 1,
        "changed": 0,
        "rewritten": 0,
        "changes": [{"change": "removed", "scope": "global", "name": "Bob", "entity_type": "person", "id": 2}],
        "not_listed": 0,
    }
    assert found["relations"]["changes"] == [
        {
            "change": "removed",
            "scope": "global",
            "from_entity": "Bob",
            "to_entity": "Acme",
            "relation_type": "works_at",
            "id": 5,
        }
    ]
    assert found["agents"]["changes"] == [{"change": "changed", "name": "writer", "parts": ["body"]}]
    assert found["messages"]["changes"] == []


# -- frontmatter that bites -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (b"---\na: 1\n---\n", b"---\na: 1.0\n---\n", ("a",)),
        (b"---\na: 1\n---\n", b"---\na: true\n---\n", ("a",)),
        (b"---\na: .nan\n---\n", b"---\na:  .nan\n---\n", ("formatting",)),
        (b"---\na: {x: 1, y: 2}\n---\n", b"---\na: {y: 2, x: 1}\n---\n", ("formatting",)),
        (b"---\non: 1\ncontent: 2\n---\n", b"---\non: 2\ncontent: 2\n---\n", ("on",)),
        (b"---\na: b: c\n---\nx", b"---\na: b: d\n---\nx", ("a",)),
        (b"---\na: " + b"[" * 20_000, b"", ("body",)),
        (b"\xff\xfe", b"\x00" * 50, ("body",)),
        (b"\xff", b"\xfe", ("formatting",)),
    ],
)
def test_odd_configs_are_compared_all_the_same(old: bytes, new: bytes, parts: tuple[str, ...]):
    with state([ConfigWritten("a", old)]) as one, state([ConfigWritten("a", new)]) as other:
        assert diff(one, other).tables["agents"].changes[0].parts == parts


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("UPDATE entities SET name = 'Ecma' WHERE id = 1", "1 entity changed"),
        ("UPDATE observations SET content = 'renewed in June' WHERE id = 3", "1 observation changed"),
        ("UPDATE observations SET content = CAST(x'ff00' AS TEXT) WHERE id = 3", "1 observation changed"),
        ("UPDATE entities SET created_at = 'soon' WHERE id = 1", "1 entity changed"),
        ("DELETE FROM relations", "-1 relation"),
        ("UPDATE agents SET content = x'00'", "agent writer: name, tools, model, body changed"),
        ("UPDATE agents SET content = 5", "agent writer: content changed"),
        ("UPDATE agents SET sha256 = 'ab'", "agent writer: sha256 changed"),
        ("PRAGMA foreign_keys=OFF; DELETE FROM entities WHERE id = 2", "-1 entity"),
    ],
)
def test_a_state_altered_by_hand_is_told(damage: str, expected: str):
    """Scenario: the live memory.db has drifted from what the journal says; the report must survive what it finds."""
    with state(BASE) as old, state(BASE) as new:
        new.executescript(damage)
        found = diff(old, new)
        assert words(found) == expected
        assert list(lines(found))
        assert json.dumps(to_json(found))


def test_what_was_open_stays_as_it_was():
    """A transaction of the caller's goes on; settings of the connection come back."""
    with state(BASE) as old, state([]) as new:
        new.execute("BEGIN")
        new.row_factory = sqlite3.Row
        diff(old, new)
        assert new.in_transaction
        assert not old.in_transaction
        assert (new.row_factory, new.text_factory) == (sqlite3.Row, str)
        assert words(diff(old, old)) == "no difference"


# -- against an independent count -------------------------------------------------------------------------------------

QUERIES = {
    "entities": "SELECT scope, name, '', '', id, entity_type, metadata, confidence, created_at, updated_at "
    "FROM entities",
    "observations": "SELECT e.scope, e.name, o.text_sha256, '', o.id, o.content, o.metadata, o.agent, o.created_at, 0 "
    "FROM observations o JOIN entities e ON e.id = o.entity_id",
    "relations": "SELECT f.scope || ' ' || t.scope, f.name, t.name, r.relation_type, r.id, r.strength, r.confidence, "
    "r.metadata, r.created_at, 0 FROM relations r JOIN entities f ON f.id = r.from_entity_id "
    "JOIN entities t ON t.id = r.to_entity_id",
    "messages": "SELECT conversation_id, message_id, '', '', id, agent, role, content, created_at, 0 FROM messages",
}


def counted(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> tuple[int, int, int, int]:
    """Added, removed, changed, rewritten: by key, over whole tables at once."""
    one, other = ({row[:4]: row[4:] for row in each.execute(QUERIES[table])} for each in (old, new))
    common = one.keys() & other.keys()
    changed = sum(
        one[key] != other[key] if one[key][0] == other[key][0] else one[key][1:4] != other[key][1:4] for key in common
    )
    rewritten = sum(one[key] != other[key] for key in common) - changed
    return len(other.keys() - one.keys()), len(one.keys() - other.keys()), changed, rewritten


@settings(max_examples=60, deadline=None)
@given(any_histories(60), st.data())
def test_counts_are_those_of_whole_tables(history: list[Step], data: Any):
    cut = data.draw(st.integers(0, len(history)))
    with state(history[:cut]) as old, state(history) as new:
        for one, other in ((old, new), (new, old)):
            found = diff(one, other)
            assert found.same == (state_digest(one) == state_digest(other))
            for table in QUERIES:
                got = found.tables[table]
                assert (got.added, got.removed, got.changed, got.rewritten) == counted(one, other, table)
            assert json.dumps(to_json(found))
