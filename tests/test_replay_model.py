"""The reference projection, checked by hand where it can be, and against its own definition where it cannot."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal import events
from journal.events import Event
from journal.limits import admit, refuse_reserved
from replay.model import Model, State
from replay.model_digest import packed, state_digest
from tests.histories import SeededSource, Step, growing, history
from tests.strategies import any_histories, loose_histories, valid_histories


def model_of(*given_events: Event, agent: str | None = None) -> Model:
    """Events from seq 1, the n-th at time 100 * n."""
    model = Model()
    for seq, event in enumerate(given_events, 1):
        model.apply(seq, seq * 100, agent, event)
    return model


ACME = events.EntityCreated("global", "Acme", "company")
INITECH = events.EntityCreated("global", "Initech", "company", {"b": 1, "a": "é"}, 0.5)
FACT = events.ObservationAdded("global", "Acme", "renewed")
OWNS = events.RelationCreated("global", "Acme", "Initech", "owns")
CONFIG = events.ConfigWritten("writer", b"\xff\0")
MESSAGE = events.MessageRecorded("c1", "sales", "user", "hello", "m1")


def test_rows_are_named_by_the_seq_that_made_them() -> None:
    rows = model_of(ACME, INITECH, FACT, OWNS, CONFIG, MESSAGE, agent="clerk").rows()
    assert rows == {
        "entities": [
            (1, "global", "Acme", "company", "{}", 1.0, 100, 100),
            (2, "global", "Initech", "company", '{"b":1,"a":"é"}', 0.5, 200, 200),
        ],
        "observations": [(3, 1, "renewed", sha256(b"renewed").digest(), "{}", "clerk", 300)],
        "relations": [(4, 1, 2, "owns", 1.0, 1.0, "{}", 400)],
        "agents": [("writer", sha256(b"\xff\0").hexdigest(), b"\xff\0", "active", "", 500)],
        "messages": [(6, "c1", "m1", "sales", "user", "hello", 600)],
    }


@pytest.mark.parametrize("event", [ACME, FACT, OWNS, MESSAGE])
def test_creating_what_is_there_is_a_no_op(event: Event) -> None:
    model = model_of(ACME, INITECH, FACT, OWNS, CONFIG, MESSAGE)
    before = model.rows()
    assert model.would_refuse(event) == "already_exists"
    assert model.apply(7, 700, None, event) is False
    assert (model.rows(), model.no_ops, model.position) == (before, 1, 7)


@pytest.mark.parametrize(
    "event",
    [
        events.EntityUpdated("global", "acme", "person"),
        events.EntityDeleted("workspace:east", "Acme"),
        events.ObservationAdded("global", "acme", "renewed"),
        events.ObservationRemoved("global", "Acme", "renewed "),
        events.ObservationRemoved("global", "acme", "renewed"),
        events.RelationCreated("global", "Acme", "acme", "owns"),
        events.RelationCreated("global", "acme", "Acme", "owns"),
        events.RelationUpdated("global", "Initech", "Acme", "owns", 0.5),
        events.RelationDeleted("global", "Acme", "Initech", "knows"),
        events.ConfigRemoved("Writer"),
        events.StatusChanged("Writer", "failed"),
    ],
)
def test_changing_what_is_not_there_is_a_no_op(event: Event) -> None:
    model = model_of(ACME, INITECH, FACT, OWNS, CONFIG, MESSAGE)
    before = model.rows()
    assert model.would_refuse(event) == "not_found"
    assert model.apply(7, 700, None, event) is False
    assert (model.rows(), model.no_ops) == (before, 1)


def test_a_cursor_needs_its_message_and_changes_no_state() -> None:
    model = model_of(MESSAGE)
    before = model.rows()
    assert model.would_refuse(events.CursorMoved("mailer", "m2")) == "not_found"
    assert model.would_refuse(events.CursorMoved("mailer", "m1")) is None
    assert model.apply(2, 200, None, events.CursorMoved("mailer", "m1"))
    assert model.rows() == before


def test_an_update_changes_what_it_gives_and_when() -> None:
    model = model_of(INITECH, events.EntityUpdated("global", "Initech", confidence=0.25))
    assert model.rows()["entities"] == [(1, "global", "Initech", "company", '{"b":1,"a":"é"}', 0.25, 100, 200)]
    model.apply(3, 300, None, events.EntityUpdated("global", "Initech", "person", {}))
    assert model.rows()["entities"] == [(1, "global", "Initech", "person", "{}", 0.25, 100, 300)]
    model.apply(4, 400, None, events.EntityUpdated("global", "Initech"))
    assert model.rows()["entities"] == [(1, "global", "Initech", "person", "{}", 0.25, 100, 400)]


def test_a_relation_update_changes_what_it_gives() -> None:
    model = model_of(ACME, INITECH, OWNS, events.RelationUpdated("global", "Acme", "Initech", "owns", 0.5))
    assert model.rows()["relations"] == [(3, 1, 2, "owns", 0.5, 1.0, "{}", 300)]
    model.apply(5, 500, None, events.RelationUpdated("global", "Acme", "Initech", "owns", None, 0.0, {"a": []}))
    assert model.rows()["relations"] == [(3, 1, 2, "owns", 0.5, 0.0, '{"a":[]}', 300)]


def test_a_relation_may_lead_to_where_it_starts() -> None:
    model = model_of(ACME, events.RelationCreated("global", "Acme", "Acme", "owns"))
    assert [row[:4] for row in model.rows()["relations"]] == [(2, 1, 1, "owns")]
    model.apply(3, 300, None, events.EntityDeleted("global", "Acme"))
    assert model.state == State()


@pytest.mark.parametrize("name", ["Acme", "Initech"])
def test_observations_and_relations_go_with_their_entity(name: str) -> None:
    model = model_of(ACME, INITECH, FACT, OWNS, CONFIG, events.EntityDeleted("global", name))
    rows = model.rows()
    assert [row[2] for row in rows["entities"]] == [{"Acme": "Initech", "Initech": "Acme"}[name]]
    assert len(rows["observations"]) == (name == "Initech")
    assert rows["relations"] == []
    assert len(rows["agents"]) == 1


def test_what_comes_back_under_its_name_is_another_row() -> None:
    model = model_of(ACME, FACT, events.EntityDeleted("global", "Acme"), ACME)
    assert [row[0] for row in model.rows()["entities"]] == [4]
    assert model.rows()["observations"] == []


def test_clearing_a_scope_leaves_the_others() -> None:
    elsewhere = events.EntityCreated("workspace:east", "Acme", "company")
    model = model_of(ACME, elsewhere, FACT, events.ScopeCleared("global"), events.ScopeCleared("agent:nobody"))
    assert [row[:3] for row in model.rows()["entities"]] == [(2, "workspace:east", "Acme")]
    assert (model.rows()["observations"], model.no_ops) == ([], 0)


def test_a_config_keeps_its_status_until_it_is_removed() -> None:
    model = model_of(CONFIG, events.StatusChanged("writer", "suspended", "loops"), events.ConfigWritten("writer", b""))
    assert model.rows()["agents"] == [("writer", sha256().hexdigest(), b"", "suspended", "loops", 300)]
    model.apply(4, 400, None, events.ConfigRemoved("writer"))
    model.apply(5, 500, None, CONFIG)
    assert model.rows()["agents"][0][3:] == ("active", "", 500)


def test_a_message_id_is_unique_in_its_conversation_only() -> None:
    elsewhere = events.MessageRecorded("c2", "sales", "user", "hello", "m1")
    assert len(model_of(MESSAGE, elsewhere, MESSAGE).rows()["messages"]) == 2


def test_numbers_that_sqlite_does_not_know() -> None:
    odd = events.EntityCreated("global", "Acme", "company", {}, math.nan)
    model = model_of(odd, events.EntityCreated("global", "zero", "company", {}, -0.0))
    assert model.rows()["entities"][0][5] is None
    assert math.copysign(1, model.rows()["entities"][1][5]) == 1


# -- restores ---------------------------------------------------------------------------------------------------------


def test_a_restore_can_be_undone_and_no_timeline_is_lost() -> None:
    other = events.EntityCreated("global", "Umbrella", "company")
    model = model_of(ACME, INITECH, events.StateRestored(1), other, events.StateRestored(2), events.StateRestored(4))

    def names(seq: int) -> list[str]:
        return [row[2] for row in model.state_at(seq).rows()["entities"]]

    assert [names(seq) for seq in range(7)] == [
        [], ["Acme"], ["Acme", "Initech"], ["Acme"], ["Acme", "Umbrella"], ["Acme", "Initech"], ["Acme", "Umbrella"],
    ]  # fmt: skip
    assert model.rows() == model.state_at(4).rows()


@pytest.mark.parametrize("to_seq", [-1, 2, 3])
def test_a_restore_to_nowhere_is_a_no_op(to_seq: int) -> None:
    model = model_of(ACME, events.StateRestored(to_seq))
    assert model.no_ops == 1
    assert [row[2] for row in model.rows()["entities"]] == ["Acme"]


def by_definition(steps: list[Step], target: int) -> State:
    """state(target) from genesis: a restore in it means state(K), and then what follows the restore."""

    def path(last: int) -> list[Step]:
        upto = [step for step in steps if step.seq <= last]
        for index in range(len(upto) - 1, -1, -1):
            event = upto[index].event
            if isinstance(event, events.StateRestored) and 0 <= event.to_seq < upto[index].seq:
                return path(event.to_seq) + upto[index + 1 :]
        return upto

    model = Model()
    for number, step in enumerate(path(target), 1):
        assert step.seq > model.position or number == 1
        model.apply(*step)
    return model.state


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_state_is_a_function_of_the_events_before_it(data: st.DataObject) -> None:
    steps = data.draw(any_histories(30, restores=150))
    target = data.draw(st.integers(0, 35))
    model = Model()
    for step in steps:
        model.apply(*step)
    assert model.state_at(target) == by_definition(steps, target)
    assert model.state == by_definition(steps, 35)


def test_states_of_a_long_history_are_found_again() -> None:
    model, kept = Model(), {}
    for step in growing(SeededSource(7), model, 3000, restores=5):
        if step.seq % 97 == 0 or isinstance(step.event, events.StateRestored):
            kept[step.seq] = model.digest()
    assert len(kept) > 35
    assert {seq: model.state_at(seq).digest() for seq in kept} == kept


def test_a_state_that_was_asked_for_is_a_copy() -> None:
    model = model_of(ACME, INITECH)
    model.state_at(2).entities.clear()
    model.state_at(0).entities[("global", "x")] = next(iter(model.state.entities.values()))
    assert model.state_at(0) == State()
    assert len(model.state_at(2).entities) == 2


# -- refusals ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(loose_histories(30))
def test_what_would_be_refused_is_what_would_be_a_no_op(steps: list[Step]) -> None:
    model = Model()
    for step in steps:
        refused = model.would_refuse(step.event)
        effective = model.apply(*step)
        if isinstance(step.event, events.CursorMoved):
            assert effective
        else:
            assert effective == (refused is None)


@settings(max_examples=40, deadline=None)
@given(valid_histories(30))
def test_a_valid_history_is_admitted(steps: list[Step]) -> None:
    model = Model()
    for step in steps:
        admit(step.event)
        refuse_reserved(step.event)
        assert model.would_refuse(step.event) is None
        assert model.apply(*step)


def test_histories_reach_every_type_of_event_and_fill_every_table() -> None:
    model = Model()
    seen = {type(step.event) for step in growing(SeededSource(3), model, 6000, loose=True, restores=2)}
    registered = set(events.event_union().__args__)
    assert seen == {cls for cls in registered if cls.__module__ == "journal.events"}
    valid = Model()
    list(growing(SeededSource(3), valid, 1000))
    assert all(len(rows) > 5 for rows in valid.rows().values())
    assert history(SeededSource(3), 50) == history(SeededSource(3), 50)


# -- digest -----------------------------------------------------------------------------------------------------------


values = st.recursive(
    st.none()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.builds(lambda bits, step: (1 << bits) + step, st.integers(4, 63), st.integers(-1, 1))
    | st.builds(lambda bits, step: (-1 << bits) + step, st.integers(4, 62), st.integers(-1, 1))
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.sampled_from([31, 32, 255, 256, 65_535, 65_536]).map("x".__mul__)
    | st.sampled_from([0, 255, 256, 65_535, 65_536]).map(bytes),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_the_encoder_agrees_with_another(value: Any) -> None:
    assert packed(value) == msgspec.msgpack.encode(value)


def test_digest_of_the_empty_state_is_its_definition() -> None:
    empty = sha256().digest()
    text = b"agent-journal state digest v1\n"
    for table in (b"entities", b"observations", b"relations", b"messages", b"agents"):
        text += table + b"\0" + empty
    assert Model().digest() == sha256(text).hexdigest()


def test_digest_of_one_message_is_its_definition() -> None:
    """A row in the second bucket, spelt out."""
    model = Model()
    model.apply(1500, 100, None, events.MessageRecorded("c", "a", "r", "x", "m"))
    row = b"\x97\xcd\x05\xdc\xa1c\xa1m\xa1a\xa1r\xa1x\x64"
    table = sha256((1).to_bytes(8, "little") + sha256(row).digest()).digest()
    empty = sha256().digest()
    text = b"agent-journal state digest v1\n"
    text += b"entities\0" + empty + b"observations\0" + empty + b"relations\0" + empty
    text += b"messages\0" + table + b"agents\0" + empty
    assert model.digest() == sha256(text).hexdigest()


def test_digest_does_not_depend_on_the_order_of_agents_or_rows() -> None:
    names = ["b", "B", "é", "\U0001f600", "\uffff"]  # in UTF-16 the last two would change places
    forward, back = Model(), Model()
    for seq, name in enumerate(names, 1):
        forward.apply(seq, 5, None, events.ConfigWritten(name, name.encode()))
    for seq, name in enumerate(reversed(names), 1):
        back.apply(seq, 5, None, events.ConfigWritten(name, name.encode()))
    assert forward.digest() == back.digest()
    tables: dict[str, list[tuple[int, tuple[object, ...]]]] = {name: [] for name in State().rows()}
    assert state_digest({**tables, "messages": [(1, (1,)), (2000, (2,))]}) == state_digest(
        {**tables, "messages": [(2000, (2,)), (1, (1,))]}
    )


@settings(max_examples=40, deadline=None)
@given(valid_histories(20))
def test_digest_changes_with_every_event_that_changes_a_row(steps: list[Step]) -> None:
    model = Model()
    for step in steps:
        rows, digest = model.rows(), model.digest()
        model.apply(*step)
        assert (model.rows() == rows) == (model.digest() == digest)
