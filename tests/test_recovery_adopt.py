"""Data directories that something else wrote, taken in as events; what is left out is named with its reason."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from journal.errors import UsageError
from journal.events import ConfigWritten, EntityCreated, MessageRecorded, ObservationAdded, StatusChanged
from journal.limits import TEXT_BYTES_MAX
from recovery.adopt.stream import Adopted
from tests.foreign import (
    CAXTON,
    MS,
    adopt,
    adoption,
    apply,
    build,
    entity,
    published,
    published_rows,
    relation,
)

# -- Caxton's schema --------------------------------------------------------------------------------------------------


def test_caxton_memory_becomes_events_and_nothing_is_lost(tmp_path: Path) -> None:
    memory = build(
        tmp_path / "memory.db",
        CAXTON,
        entities=[
            entity(7, "Acme", json.dumps(["renewed in May", "größer als je"]), confidence=0.5, strength=0.25, version=3,
                   created_at=MS, updated_at=MS + 1, valid_from=MS, valid_to=None, metadata='{"tier":"gold"}'),
            entity(2, "Zed", None),
        ],
        relations=[relation(1, 7, 2, strength=0.75, confidence=0.5, created_at=MS, metadata='{"since":2019}')],
        embeddings=[{"entity_id": 7, "embedding": bytes(1536), "model_version": "all-MiniLM-L6-v2", "created_at": MS}],
    )  # fmt: skip
    adopted, left_out = adopt(memory)
    with closing(apply(adopted, tmp_path / "new.db")) as state:
        rows = state.execute(
            "SELECT scope, name, entity_type, confidence, metadata FROM entities ORDER BY name"
        ).fetchall()
        texts = [text for (text,) in state.execute("SELECT content FROM observations ORDER BY id")]
        related = state.execute("SELECT strength, confidence, metadata FROM relations").fetchall()
    assert rows[0][:4] == ("global", "Acme", "company", 0.5)
    assert json.loads(rows[0][4]) == {
        "tier": "gold",
        "imported": {
            "id": 7, "strength": 0.25, "version": 3, "created_at": MS, "updated_at": MS + 1, "valid_from": MS,
        },
    }  # fmt: skip
    assert json.loads(rows[1][4]) == {"imported": {"id": 2}}
    assert texts == ["renewed in May", "größer als je"]
    assert related[0][:2] == (0.75, 0.5)
    assert json.loads(related[0][2]) == {"since": 2019, "imported": {"id": 1, "created_at": MS}}
    assert left_out == ["table embeddings, 1 rows: derived from the texts: computed again when the model is there"]


def test_observations_may_lie_in_a_table_in_the_row_or_in_both(tmp_path: Path) -> None:
    memory = build(
        tmp_path / "memory.db",
        CAXTON + "CREATE TABLE observations(id INTEGER PRIMARY KEY, entity_id INTEGER, text TEXT, created_at INTEGER);",
        entities=[entity(1, "A", '["one"]'), entity(2, "B", '["one"]')],
        observations=[
            {"id": 1, "entity_id": 2, "text": "two", "created_at": MS},
            {"id": 2, "entity_id": 1, "text": "two", "created_at": MS},
            {"id": 3, "entity_id": 1, "text": "one", "created_at": MS},
            {"id": 4, "entity_id": 2, "text": "two", "created_at": MS},
        ],
    )
    adopted, left_out = adopt(memory)
    apply(adopted, tmp_path / "new.db").close()
    observations = [event for _, event, _ in adopted if isinstance(event, ObservationAdded)]
    assert [(event.entity, event.content) for event in observations] == [
        ("A", "one"), ("B", "one"), ("A", "two"), ("B", "two"),
    ]  # fmt: skip
    assert observations[-1].metadata == {"imported": {"id": 1, "created_at": MS}}
    assert left_out == [
        "observations row 3: the same text as another observation of its entity",
        "observations row 4: the same text as another observation of its entity",
    ]


def test_items_of_an_array_that_are_no_plain_text(tmp_path: Path) -> None:
    items = ["same", "same", 42, None, {"content": "an object", "at": 5}, {"other": 1}, "x" * (TEXT_BYTES_MAX + 1)]
    memory = build(
        tmp_path / "memory.db",
        CAXTON,
        entities=[entity(1, "A", json.dumps(items)), entity(2, "B", "no JSON at all"), entity(3, "C", '{"a":1}')],
    )
    adopted, left_out = adopt(memory)
    events = [event for _, event, _ in adopted]
    assert [event.content for event in events if isinstance(event, ObservationAdded)] == ["same", "an object"]
    assert next(event for event in events if getattr(event, "content", "") == "an object").metadata == {  # type: ignore[attr-defined]
        "imported": {"at": 5}
    }
    kept = {
        event.name: event.metadata["imported"].get("observations") for event in events if type(event) is EntityCreated
    }
    assert kept == {"A": None, "B": "no JSON at all", "C": '{"a":1}'}
    assert left_out == [
        "entities row 1 ('A'), observation 2: the same text as one before it",
        "entities row 1 ('A'), observation 3: is int, not text",
        "entities row 1 ('A'), observation 4: is NoneType, not text",
        "entities row 1 ('A'), observation 6: is dict, not text",
        f"entities row 1 ('A'), observation 7: content is {TEXT_BYTES_MAX + 1} bytes; the limit is {TEXT_BYTES_MAX}",
    ]


@pytest.mark.parametrize("text", ["not JSON", "[1, 2]", '{"a": NaN}', "[" * 100_000, '"\\ud800"'])
def test_metadata_that_is_no_object_is_kept_as_it_stood(tmp_path: Path, text: str) -> None:
    memory = build(tmp_path / "memory.db", CAXTON, entities=[entity(1, "A", metadata=text[:1000])])
    ((_, event, _),), left_out = adopt(memory)
    assert isinstance(event, EntityCreated)
    assert event.metadata["imported"]["metadata"] == text[:1000]
    assert left_out == []


def test_metadata_that_was_imported_before_is_kept_one_level_down(tmp_path: Path) -> None:
    memory = build(tmp_path / "memory.db", CAXTON, entities=[entity(5, "A", metadata='{"imported":{"id":1},"a":2}')])
    ((_, event, _),), _ = adopt(memory)
    assert isinstance(event, EntityCreated)
    assert event.metadata == {"a": 2, "imported": {"id": 5, "imported": {"id": 1}}}


# -- rows that break the rules ----------------------------------------------------------------------------------------


def test_rows_that_break_the_rules_are_left_out_with_their_reasons(tmp_path: Path) -> None:
    loose = CAXTON.replace("name TEXT UNIQUE, entity_type TEXT", "name, entity_type")
    memory = build(
        tmp_path / "memory.db",
        loose,
        entities=[
            entity(1, "A"),
            entity(2, "A", '["lost with it"]'),
            entity(3, 42),
            entity(4, "n" * 513),
            entity(5, "nul\0", '["one", "two"]'),
            entity(6, ""),
            entity(7, None),
            entity(8, "B") | {"entity_type": b"blob"},
            entity(9, "B", confidence="high"),
            entity(10, "B", metadata='{"a":' + "[" * 40 + "]" * 40 + "}"),
            entity(11, "B"),
        ],
        relations=[
            relation(1, 1, 11),
            relation(2, 1, 11, created_at=MS),
            relation(3, 1, 99),
            relation(4, 4, 1),
            relation(5, 1, 11, ""),
            relation(6, 11, 11),
        ],
    )
    adopted, left_out = adopt(memory)
    apply(adopted, tmp_path / "new.db").close()
    assert [type(event).__name__ for _, event, _ in adopted] == ["EntityCreated"] * 2 + ["RelationCreated"] * 2
    assert left_out == [
        "entities row 2 ('A'): the same entity as row 1",
        "entities row 2 ('A'), 1 observations: their entity was left out",
        "entities row 3: memory.entity_created: Expected `str`, got `int` in name",
        f"entities row 4 ('{'n' * 60}'): name is 513 bytes; the limit is 512",
        "entities row 5 ('nul\\x00'): name holds the control character U+0000 at 3",
        "entities row 5 ('nul\\x00'), 2 observations: their entity was left out",
        "entities row 6 (''): name is empty",
        "entities row 7: memory.entity_created: Expected `str`, got `None` in name",
        "entities row 8 ('B'): memory.entity_created: Expected `str`, got `bytes` in entity_type",
        "entities row 9 ('B'): memory.entity_created: Expected `float`, got `str` in confidence",
        "entities row 10 ('B'): metadata is nested deeper than 32",
        "relations row 2: the same relation as row 1",
        "relations row 3: entity 99 does not exist or was left out",
        "relations row 5: relation_type is empty",
        "relations row 4: entity 4 does not exist or was left out",
    ]


def test_text_that_is_not_utf_8_is_left_out_and_can_still_be_reported(tmp_path: Path) -> None:
    memory = build(tmp_path / "memory.db", CAXTON, entities=[entity(1, "A")])
    with closing(sqlite3.connect(memory)) as connection:
        connection.execute("INSERT INTO entities(id, name, entity_type) VALUES (2, CAST(x'636166e9' AS TEXT), 'x')")
        connection.commit()
    adopted, left_out = adopt(memory)
    assert len(adopted) == 1
    assert left_out == ["entities row 2 ('caf\\udce9'): name is not UTF-8"]
    left_out[0].encode()


def test_binary_and_infinite_columns_without_a_place_become_what_json_has(tmp_path: Path) -> None:
    memory = build(
        tmp_path / "memory.db",
        CAXTON + "ALTER TABLE entities ADD COLUMN icon;",
        entities=[entity(1, "A", icon=b"\x89PNG", strength=float("inf"))],
    )
    ((_, event, _),), _ = adopt(memory)
    assert isinstance(event, EntityCreated)
    assert event.metadata == {"imported": {"id": 1, "icon": {"hex": "89504e47"}, "strength": "inf"}}


# -- the published schema ---------------------------------------------------------------------------------------------


def test_the_published_schema_keeps_scopes_agents_and_times(tmp_path: Path) -> None:
    memory = published(tmp_path / "memory.db", **published_rows())
    adopted, left_out = adopt(memory)
    with closing(apply(adopted, tmp_path / "new.db")) as state:
        rows = state.execute(
            "SELECT scope, name, content, agent, o.metadata FROM observations o JOIN entities e ON e.id = entity_id"
            " ORDER BY o.id"
        ).fetchall()
        assert state.execute("SELECT count(*) FROM entities").fetchone() == (3,)
    assert [row[:4] for row in rows] == [("global", "A", "z", None), ("workspace:sales", "A", "x\0y", "sales")]
    assert json.loads(rows[1][4]) == {"k": 1, "imported": {"id": 4, "created_at": MS * 10**6}}
    assert left_out == []


def test_a_relation_across_scopes_has_no_event(tmp_path: Path) -> None:
    row = {"id": 1, "from_entity_id": 3, "to_entity_id": 9, "relation_type": "r", "metadata": "{}", "created_at": 0}
    memory = published(tmp_path / "memory.db", **published_rows(relations=[row]))
    assert adopt(memory)[1][0] == "relations row 1: joins two scopes, 'global' and 'workspace:sales'"


def test_messages_keep_their_order_and_say_which_column_has_no_place(tmp_path: Path) -> None:
    message = {"conversation_id": "c", "agent": "a", "role": "user", "content": "hi", "created_at": MS}
    messages = [{"id": number, "message_id": f"m{key}", **message} for number, key in ((9, 1), (5, 2), (7, 2))]
    memory = published(tmp_path / "memory.db", entities=[], messages=messages)
    adopted, left_out = adopt(memory)
    apply(adopted, tmp_path / "new.db").close()
    assert [event.message_id for _, event, _ in adopted if isinstance(event, MessageRecorded)] == ["m2", "m1"]
    assert left_out[:2] == [
        "messages row 7: its message_id is taken in its conversation",
        "messages.created_at: 2 values; a message has no place for it",
    ]


# -- agents -----------------------------------------------------------------------------------------------------------


def agent_row(name: str, content: bytes, status: str = "active", reason: str = "") -> dict[str, object]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": name, "sha256": sha256, "content": content, "status": status, "reason": reason, "updated_at": MS}


def configs(adopted: Sequence[Adopted]) -> list[tuple[str, bytes]]:
    return [(event.name, event.content) for _, event, _ in adopted if isinstance(event, ConfigWritten)]


def test_agent_files_are_taken_byte_for_byte(tmp_path: Path) -> None:
    fixtures = Path(__file__).parent / "fixtures" / "agents"
    adopted, left_out = adopt(None, fixtures)
    assert dict(configs(adopted)) == {path.stem: path.read_bytes() for path in fixtures.glob("*.md")}
    assert {event.origin for _, event, _ in adopted if isinstance(event, ConfigWritten)} == {"import"}
    assert left_out == ["agents/.gitattributes: no agent file: its name does not end in .md"]


def test_what_is_no_agent_file_is_named_and_never_followed(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    agents.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (agents / "linked.md").symlink_to(tmp_path / "secret")
    (agents / "team.md").mkdir()
    (agents / "notes.txt").write_bytes(b"")
    (agents / os.fsdecode(b"caf\xe9.md")).write_bytes(b"x")
    (agents / " space.md").write_bytes(b"x")
    (agents / "big.md").write_bytes(bytes(1 << 21))
    adopted, left_out = adopt(None, agents)
    assert adopted == []
    assert left_out == [
        "agents/ space.md: name ' space' is no safe file name",
        f"agents/big.md: content is {1 << 21} bytes; the limit is {1 << 20}",
        "agents/caf\\xe9.md: agent.config_written: text holds a lone surrogate at 3, which cannot be stored",
        f"agents/linked.md: a link to {tmp_path / 'secret'}",
        "agents/team.md: a directory",
        "agents/notes.txt: no agent file: its name does not end in .md",
    ]


def test_both_the_tables_and_the_files_version_of_an_agent_stay_in_history(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    agents.mkdir()
    for name, content in {
        "edited": b"by hand",
        "emptied": b"",
        "new": b"new",
        "same": b"same",
        "zeroed": bytes(9),
    }.items():
        (agents / f"{name}.md").write_bytes(content)
    rows = [agent_row(name, b"from the table") for name in ("edited", "emptied", "lost", "zeroed")]
    memory = published(tmp_path / "memory.db", entities=[], agents=[*rows, agent_row("same", b"same")])
    adopted, left_out = adopt(memory, agents)
    assert configs(adopted) == [
        ("edited", b"from the table"), ("edited", b"by hand"), ("emptied", b"from the table"),
        ("lost", b"from the table"), ("same", b"same"), ("zeroed", b"from the table"), ("new", b"new"),
    ]  # fmt: skip
    assert left_out[:3] == [
        "agents/emptied.md: is empty or holds NUL bytes: the version of the agents table was taken",
        "agents/zeroed.md: is empty or holds NUL bytes: the version of the agents table was taken",
        "agents.updated_at: 5 values; a config has no place for it",
    ]


def test_a_status_follows_its_agent(tmp_path: Path) -> None:
    rows = [agent_row("a", b"1", "suspended", "too chatty"), agent_row("b", b"2"), agent_row("c", b"3", "validated")]
    memory = published(tmp_path / "memory.db", entities=[], agents=rows)
    adopted, left_out = adopt(memory)
    with closing(apply(adopted, tmp_path / "new.db")) as state:
        assert state.execute("SELECT name, status, reason FROM agents ORDER BY name").fetchall() == [
            ("a", "suspended", "too chatty"), ("b", "active", ""), ("c", "active", ""),
        ]  # fmt: skip
    assert [event.name for _, event, _ in adopted if isinstance(event, StatusChanged)] == ["a"]
    assert left_out[0] == "agents row 'c', status: status is 'validated'; it can be active, suspended, failed"


def test_a_sha256_that_is_not_the_contents_is_said_and_the_content_taken(tmp_path: Path) -> None:
    row = agent_row("a", b"content") | {"sha256": "00" * 32}
    adopted, left_out = adopt(published(tmp_path / "memory.db", entities=[], agents=[row]))
    assert configs(adopted) == [("a", b"content")]
    assert left_out[0] == "agents row 'a', sha256: is not that of its content; the content was taken as it is"


# -- taking an import up again ----------------------------------------------------------------------------------------


def test_the_stream_is_the_same_each_time_and_can_be_taken_up_anywhere(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "writer.md").write_bytes(b"x")
    (agents / "kept.md").write_bytes(b"by hand")
    rows = published_rows(agents=[agent_row("kept", b"1", "failed")])
    memory = published(tmp_path / "memory.db", **rows)
    with adoption(memory, agents) as opened:
        assert opened.found == {
            "entities": 3, "observations": 2, "relations": 0, "messages": 0, "agents": 1, "agent_files": 2,
        }  # fmt: skip
        whole = list(opened.events())
        counts, left_out = dict(opened.report.counts), list(opened.report.left_out)
        assert len({adopted.op_id for adopted in whole}) == len(whole) == 9
    with adoption(memory, agents) as again:
        for place, adopted in enumerate(whole):
            assert list(again.events(after=adopted.op_id)) == whole[place + 1 :]
            assert (again.report.counts, again.report.left_out) == (counts, left_out)


def test_a_source_that_changed_is_not_taken_up(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "writer.md").write_bytes(b"x")
    first = adopt(None, agents)[0][-1]
    (agents / "writer.md").write_bytes(b"y")
    with adoption(None, agents) as changed, pytest.raises(UsageError, match="no event of this source"):
        list(changed.events(after=first.op_id))


def test_a_long_list_of_what_was_left_out_is_bounded_but_counted(tmp_path: Path) -> None:
    memory = build(tmp_path / "memory.db", CAXTON, entities=[], relations=[relation(n, 1, 2) for n in range(1, 8)])
    with adoption(memory) as opened:
        list(opened.events())
        assert len(opened.report.lines()) == 7
        assert not opened.report.is_whole
        assert opened.report.lines(3)[2:] == ["relations row 3: entity 1 does not exist or was left out", "and 4 more"]


def test_what_is_derived_or_there_already_is_named_but_not_missing(tmp_path: Path) -> None:
    vectors = [{"entity_id": 1, "embedding": bytes(4), "model_version": "m", "created_at": MS}]
    memory = build(tmp_path / "memory.db", CAXTON, entities=[entity(1, "A", '["a", "a"]')], embeddings=vectors)
    with adoption(memory) as opened:
        list(opened.events())
        assert len(opened.report.left_out) == 2
        assert opened.report.is_whole


def test_nothing_to_adopt_is_an_empty_stream(tmp_path: Path) -> None:
    assert adopt(tmp_path / "memory.db", tmp_path / "agents") == ([], [])
