"""A digest from a checkpoint's leaves: a row that an event changed and whose bucket was not read again, a bucket that
a foreign key emptied and that still counts, stored leaves that are damaged, foreign or lie.

Held against a scan of the whole file and against the reference projection, over histories that delete, clear, restore.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.checkpoint import PART_BYTES, Manifest
from journal.events import (
    ConfigRemoved,
    ConfigWritten,
    EntityCreated,
    EntityDeleted,
    EntityUpdated,
    MessageRecorded,
    ObservationAdded,
    ObservationRemoved,
    RelationCreated,
    RelationDeleted,
    RelationUpdated,
    ScopeCleared,
    StatusChanged,
)
from journal.reader import LogReader
from journal.record import Record
from journal.storage import RealStorage
from replay import digest, leaves
from replay.digest import Leaf, digest_of, state_digest, state_leaves
from replay.engine import build_state
from replay.leaves import KIND_LEAVES, Touched, load_leaves, renewed, rows_by_table, save_leaves
from replay.memory import apply_records
from replay.schema import TABLES, connect, create
from tests.histories import Step, Vouched, decoded
from tests.second_reader import read_body
from tests.strategies import any_histories, batches
from tests.test_replay_equivalence import database, model_of
from tests.worlds import World, flip, world_in


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """2,400 events with restores; checkpoints on the way. Tests only read it."""
    world = world_in(tmp_path_factory.mktemp("world"), seed=11)
    for _ in range(6):
        world.grow(400, restores=6)
        if len(world.steps) < 2400:
            world.checkpoint()
    return world


@pytest.fixture
def world(tmp_path: Path) -> World:
    """120 events, a checkpoint at 80."""
    world = world_in(tmp_path, seed=5)
    world.grow(80)
    world.checkpoint()
    world.grow(40)
    return world


def only(world: World) -> Manifest:
    (manifest,) = world.checkpoints.manifests()
    return manifest


# -- equal to a scan --------------------------------------------------------------------------------------------------


def test_any_seq_has_the_digest_of_a_scan_and_of_the_reference(shared: World, tmp_path: Path) -> None:
    by_leaves = 0
    for seq in range(401, len(shared.steps) + 1, 97):
        path = str(tmp_path / f"{seq}.db")
        built = build_state(shared.storage, shared.layout.journal, shared.reader(), seq, path)
        with closing(sqlite3.connect(path)) as connection:
            assert built.digest == state_digest(connection)
            tables = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
        assert built.counts == tables
        assert built.digest == shared.digest_at(seq)
        by_leaves += built.base_seq > 0 and built.rows_scanned < sum(tables.values())
        os.unlink(path)
    assert by_leaves >= 5, "hardly any state was made from leaves"


def apply(connection: sqlite3.Connection, steps: list[Step]) -> None:
    connection.execute("BEGIN")
    apply_records(connection, steps[0].seq, decoded(steps))
    connection.execute("COMMIT")


@pytest.mark.parametrize("bits", [0, 1, 3])
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_events_touch_is_all_that_is_read_again(bits: int, data: st.DataObject) -> None:
    """With buckets of 1, 2 and 8 ids, so that short histories have many of them."""
    steps = data.draw(any_histories(40))
    middle = data.draw(st.integers(0, len(steps)))
    with pytest.MonkeyPatch.context() as patched, database() as connection:
        for module in (digest, leaves):
            patched.setattr(module, "BUCKET_BITS", bits)
        for batch in data.draw(batches(steps[:middle])):
            apply(connection, batch)
        base = state_leaves(connection)
        touched = Touched(connection)
        for batch in data.draw(batches(steps[middle:])):
            apply(connection, batch)
        scanned = state_leaves(connection)
        assert renewed(base, connection, touched.buckets()) == scanned
        changed = {
            (table, bucket)
            for table in TABLES
            for bucket in base[table].keys() | scanned[table].keys()
            if base[table].get(bucket) != scanned[table].get(bucket)
        }
        assert changed <= set(touched.buckets())
    with database() as connection:
        for step in steps:
            apply(connection, [step])
        assert state_digest(connection) == model_of(steps).state.digest()


BASE = [
    EntityCreated("global", "Acme", "company"),
    EntityCreated("global", "Bolt", "company"),
    EntityCreated("agent:w", "Note", "note"),
    ObservationAdded("global", "Acme", "one"),
    ObservationAdded("agent:w", "Note", "two"),
    RelationCreated("global", "Acme", "Bolt", "knows"),
    RelationCreated("global", "Bolt", "Acme", "owes"),
    ConfigWritten("writer", b"x"),
]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (EntityCreated("global", "New", "x"), {("entities", 9)}),
        (EntityUpdated("global", "Acme", confidence=0.5), {("entities", 1)}),
        (EntityDeleted("global", "Acme"), {("entities", 1), ("observations", 4), ("relations", 6), ("relations", 7)}),
        (ScopeCleared("agent:w"), {("entities", 3), ("observations", 5)}),
        (ObservationAdded("global", "Bolt", "three"), {("observations", 9)}),
        (ObservationAdded("global", "Acme", "one"), set()),
        (ObservationRemoved("global", "Acme", "one"), {("observations", 4)}),
        (RelationCreated("global", "Acme", "Acme", "is"), {("relations", 9)}),
        (RelationUpdated("global", "Acme", "Bolt", "knows", strength=0.1), {("relations", 6)}),
        (RelationDeleted("global", "Bolt", "Acme", "owes"), {("relations", 7)}),
        (MessageRecorded("c", "w", "user", "hi", "m"), {("messages", 9)}),
        (ConfigWritten("writer", b"y"), {("agents", 0)}),
        (ConfigWritten("other", b"y"), {("agents", 0)}),
        (ConfigRemoved("writer"), {("agents", 0)}),
        (StatusChanged("writer", "failed"), {("agents", 0)}),
        (StatusChanged("nobody", "failed"), set()),
    ],
    ids=lambda value: type(value).type_name if not isinstance(value, set) else "",
)
def test_each_event_touches_the_buckets_of_its_rows_and_of_what_goes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: object, expected: set[tuple[str, int]]
) -> None:
    monkeypatch.setattr(leaves, "BUCKET_BITS", 0)
    with closing(connect(tmp_path / "memory.db")) as connection:
        create(connection)
        apply_records(connection, 1, [Record(0, 1, None, None, None, None, None, each) for each in BASE])
        touched = Touched(connection)
        apply_records(connection, 9, [Record(0, 2, None, None, None, None, None, event)])
        assert set(touched.buckets()) == expected


def test_what_is_rolled_back_was_not_touched(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "memory.db")) as connection:
        create(connection)
        touched = Touched(connection)
        connection.execute("BEGIN")
        apply_records(connection, 1, [Record(0, 1, None, None, None, None, None, BASE[0])])
        assert touched.buckets() == [("entities", 0)]
        connection.execute("ROLLBACK")
        assert touched.buckets() == []


# -- as parts of a checkpoint -----------------------------------------------------------------------------------------


def test_a_checkpoint_lists_the_leaves_of_its_state(world: World) -> None:
    manifest = only(world)
    found = load_leaves(world.checkpoints, manifest)
    assert found is not None
    assert digest_of(found) == manifest.digest
    assert rows_by_table(found) == manifest.counts
    (part,) = manifest.of_kind(KIND_LEAVES)
    assert part.length == 45 * sum(map(len, found.values()))


def test_many_leaves_go_into_parts_of_bounded_size(world: World) -> None:
    many = {table: {bucket: Leaf(7, bytes(32)) for bucket in range(-5, 12_000)} for table in TABLES}
    parts, written = save_leaves(world.checkpoints, many)
    assert len(parts) == 3
    assert all(part.length <= PART_BYTES for part in parts)
    assert written == 60_025 * 45
    manifest = msgspec.structs.replace(only(world), parts=parts, digest=digest_of(many))
    assert load_leaves(world.checkpoints, manifest) == many


@pytest.mark.parametrize("harm", ["damaged", "missing", "of another state", "cut short", "none listed"])
def test_leaves_that_cannot_be_used_cost_a_scan_and_no_checkpoint(world: World, tmp_path: Path, harm: str) -> None:
    manifest = only(world)
    parts = manifest.of_kind(KIND_LEAVES)
    if harm == "damaged":
        flip(world.checkpoints.part_path(parts[0]), 20)
    elif harm == "missing":
        os.unlink(world.checkpoints.part_path(parts[0]))
    else:
        data = b"" if harm == "none listed" else world.checkpoints.read_part(parts[0])
        if harm == "of another state":
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif harm == "cut short":
            data = data[:-1]
        others = [part for part in manifest.parts if part.kind != KIND_LEAVES]
        planted = [world.checkpoints.put_part(KIND_LEAVES, data)[0]] if data else []
        changed = msgspec.structs.replace(manifest, parts=[*others, *planted])
        world.checkpoints.publish(changed)
        world.made.append(Vouched(80, changed.digest, changed.fingerprint))
        world.vouch()
    assert load_leaves(world.checkpoints, only(world)) is None
    built = build_state(world.storage, world.layout.journal, world.reader(), 120, str(tmp_path / "built.db"))
    assert (built.base_seq, built.digest) == (80, world.digest_at(120))
    assert built.rows_scanned == sum(built.counts.values())
    told = {
        "damaged": "does not match its sha256", "missing": "part is missing", "cut short": "cannot be decoded",
        "of another state": "at seq 80 are not those of its digest",
    }  # fmt: skip
    assert [told[harm] in reason for reason in built.parts_lost] == ([] if harm == "none listed" else [True])


def test_a_scan_can_be_asked_for(world: World, tmp_path: Path) -> None:
    built = build_state(
        world.storage, world.layout.journal, world.reader(), 120, str(tmp_path / "built.db"), scan=True
    )
    assert built.base_seq == 80
    assert built.rows_scanned == sum(built.counts.values())
    assert built.digest == world.digest_at(120)


# -- what version 1 wrote ---------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).resolve().parent / "golden" / "v1-leaves"


def test_the_golden_leaves_give_the_digest_as_the_text_says() -> None:
    """By the text alone: entries of 45 bytes, then tables, then the state."""
    folder = GOLDEN / "journal" / "checkpoints"
    (path,) = folder.glob("*.manifest")
    manifest = json.loads(read_body(path.read_bytes(), 2))
    data = b"".join(
        (folder / "parts" / part["sha256"]).read_bytes() for part in manifest["parts"] if part["kind"] == "leaves"
    )
    names = ("entities", "observations", "relations", "messages", "agents")
    hashed, rows, keys = dict.fromkeys(names, b""), dict.fromkeys(names, 0), []
    for at in range(0, len(data), 45):
        table, bucket, count = struct.unpack_from("<BqI", data, at)
        hashed[names[table]] += data[at + 1 : at + 9] + data[at + 13 : at + 45]
        rows[names[table]] += count
        keys.append((table, bucket))
    assert keys == sorted(set(keys))
    assert {bucket for table, bucket in keys if table == 1} == {0, 1}
    assert rows == manifest["counts"]
    whole = b"agent-journal state digest v1\n"
    for name in names:
        whole += name.encode() + b"\0" + hashlib.sha256(hashed[name]).digest()
    assert hashlib.sha256(whole).hexdigest() == manifest["digest"]


def test_states_on_the_golden_leaves_have_the_digests_that_were_noted(tmp_path: Path) -> None:
    directory, wanted = str(GOLDEN / "journal"), json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    reader = LogReader(RealStorage(), directory)
    for noted in wanted["digests"][-4:]:
        path = str(tmp_path / f"{noted['seq']}.db")
        built = build_state(RealStorage(), directory, reader, noted["seq"], path)
        assert (built.digest, built.passed_over) == (noted["digest"], ())
        assert (built.base_seq, built.rows_scanned < 1232) == (1232, True)
    assert noted["seq"] == reader.last_seq
