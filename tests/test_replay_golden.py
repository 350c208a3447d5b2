"""What version 1 wrote restores for ever: every state of a golden journal, from genesis and from its checkpoint.

The checkpoint is from before the journal vouched for them: it is read, and passed over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from journal.events import CheckpointCreated
from journal.log import Log
from journal.reader import LogReader
from journal.storage import RealStorage
from replay.engine import build_state
from replay.own_events import journal_event
from replay.vouching import UNVOUCHED
from tests.second_reader import Wrong, digest_of, read_body, read_checkpoint

GOLDEN = Path(__file__).resolve().parent / "golden"
CHECKPOINT_SEQ = 32

DIGESTS: dict[str, dict[int, str]] = {
    name: {
        each["seq"]: each["digest"]
        for each in json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8"))["digests"]
    }
    for name in ("v1", "v1-torn", "v1-unchecked", "v1-pages")
}
COLUMNS = {
    "entities": "id, scope, name, entity_type, metadata, confidence, created_at, updated_at",
    "observations": "id, entity_id, content, text_sha256, metadata, agent, created_at",
    "relations": "id, from_entity_id, to_entity_id, relation_type, strength, confidence, metadata, created_at",
    "messages": "id, conversation_id, message_id, agent, role, content, created_at",
    "agents": "name, sha256, status, reason, updated_at",
}


def digest_by_the_text(path: Path) -> str:
    """The digest of a database, by the reader that shares no code with the project."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        return digest_of(
            {
                table: [list(row) for row in connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1")]
                for table, columns in COLUMNS.items()
            }
        )


@pytest.mark.parametrize("use_checkpoints", [False, True])
@pytest.mark.parametrize("name", ["v1", "v1-torn", "v1-unchecked"])
def test_every_state_of_a_golden_journal_has_the_digest_that_was_noted(
    tmp_path: Path, name: str, use_checkpoints: bool
) -> None:
    directory = str(GOLDEN / name / "journal")
    reader = LogReader(RealStorage(), directory)
    for seq, digest in DIGESTS[name].items():
        path = tmp_path / f"{seq}.db"
        built = build_state(RealStorage(), directory, reader, seq, str(path), use_checkpoints=use_checkpoints)
        assert built.digest == digest == digest_by_the_text(path), seq
        unvouched = use_checkpoints and name == "v1" and seq >= CHECKPOINT_SEQ
        assert built.passed_over == (((CHECKPOINT_SEQ, UNVOUCHED),) if unvouched else ())
        no_ops = 2 if name == "v1-unchecked" and seq >= 4 else 0  # what nobody held against a state may be nothing
        assert (built.no_ops, built.base_seq) == (no_ops, 0)
    assert seq == reader.last_seq


def manifest_and_parts() -> tuple[dict[str, Any], dict[str, bytes]]:
    """The golden checkpoint as the text describes it, its parts joined by kind."""
    folder = GOLDEN / "v1" / "journal" / "checkpoints"
    data = (folder / f"{CHECKPOINT_SEQ:016d}.manifest").read_bytes()
    body = read_body(data, 2)
    assert len(data) == 20 + len(body)
    manifest: dict[str, Any] = json.loads(body)
    joined: dict[str, bytes] = {}
    for part in manifest["parts"]:
        content = (folder / "parts" / part["sha256"]).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (part["sha256"], part["length"])
        joined[part["kind"]] = joined.get(part["kind"], b"") + content
    return manifest, joined


def test_the_golden_checkpoint_is_what_the_text_says(tmp_path: Path) -> None:
    manifest, parts = manifest_and_parts()
    (tmp_path / "memory.db").write_bytes(parts["memory.db"])
    wanted = json.loads((GOLDEN / "v1" / "expected.json").read_text(encoding="utf-8"))
    chains = {batch["first_seq"] + batch["count"] - 1: batch["chain"] for batch in wanted["batches"]}
    assert (manifest["journal_id"], manifest["state"]) == (wanted["journal_id"], "verified")
    assert manifest["chain"] == chains[manifest["seq"]]
    assert manifest["digest"] == DIGESTS["v1"][CHECKPOINT_SEQ] == digest_by_the_text(tmp_path / "memory.db")
    assert (manifest["restores"], manifest["tags"]) == ([[32, 14]], {"vor-dem-umzug": 5})
    with closing(sqlite3.connect(tmp_path / "memory.db")) as connection:
        assert connection.execute("SELECT seq, journal_id, epoch, chain FROM journal_position").fetchall() == [
            (manifest["seq"], manifest["journal_id"], manifest["epoch"], manifest["chain"])
        ]
        for table, count in manifest["counts"].items():
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (count,)


def vouched_copy(tmp_path: Path) -> str:
    """The golden journal, which goes on with the event that vouches for its checkpoint: by the text, not the code."""
    directory = str(tmp_path / "journal")
    shutil.copytree(GOLDEN / "v1" / "journal", directory)
    manifest, _ = manifest_and_parts()
    content = {key: value for key, value in manifest.items() if key not in ("time", "state", "verified_at")}
    text = json.dumps({"latest": None} | content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    event = CheckpointCreated(CHECKPOINT_SEQ, manifest["digest"], manifest=hashlib.sha256(text.encode()).hexdigest())
    with closing(Log.open(RealStorage(), directory)) as log:
        journal_event(log, event, actor="journal")
    return directory


def test_the_golden_embeddings_are_rows_as_the_text_says_and_come_back(tmp_path: Path) -> None:
    _, parts = manifest_and_parts()
    data, rows, at = parts["embeddings"], [], 0
    while at < len(data):
        key, model_bytes, vector_bytes, checksum = struct.unpack_from("<32sHII", data, at)
        middle = at + 42 + model_bytes
        vector = data[middle : middle + vector_bytes]
        assert zlib.crc32(vector) == checksum
        rows.append((key, data[at + 42 : middle].decode(), vector, checksum))
        at = middle + vector_bytes
    assert struct.unpack("<4f", rows[0][2]) == (0.0, 0.5, -1.0, 2.0**-20)
    directory = vouched_copy(tmp_path)
    path = tmp_path / "state.db"
    built = build_state(RealStorage(), directory, LogReader(RealStorage(), directory), 61, str(path))
    assert (built.base_seq, built.embeddings, built.parts_lost) == (CHECKPOINT_SEQ, len(rows), ())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT text_sha256, model, vector, checksum FROM embeddings").fetchall() == rows


# -- a delta ----------------------------------------------------------------------------------------------------------

PAGES = GOLDEN / "v1-pages" / "journal"
BASE_SEQ, DELTA_SEQ = 36, 48


@pytest.mark.parametrize(("seq", "kinds"), [(BASE_SEQ, {"memory.db"}), (DELTA_SEQ, {"memory.db", "memory.db.pages"})])
def test_the_golden_delta_is_what_the_text_says(tmp_path: Path, seq: int, kinds: set[str]) -> None:
    manifest, file = read_checkpoint(PAGES / "checkpoints", seq)
    assert {part["kind"] for part in manifest["parts"]} == kinds
    (tmp_path / "memory.db").write_bytes(file)
    assert manifest["digest"] == DIGESTS["v1-pages"][seq] == digest_by_the_text(tmp_path / "memory.db")


def test_every_state_after_a_golden_delta_begins_there(tmp_path: Path) -> None:
    reader = LogReader(RealStorage(), str(PAGES))
    for seq, digest in DIGESTS["v1-pages"].items():
        path = tmp_path / f"{seq}.db"
        built = build_state(RealStorage(), str(PAGES), reader, seq, str(path))
        base = DELTA_SEQ if seq >= DELTA_SEQ else BASE_SEQ if seq >= BASE_SEQ else 0
        assert (built.digest, built.base_seq, built.passed_over) == (digest, base, ()), seq
        assert digest == digest_by_the_text(path)


def test_the_second_reader_refuses_pages_that_are_missing_or_of_another_file(tmp_path: Path) -> None:
    shutil.copytree(PAGES / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints" / f"{DELTA_SEQ:016d}.manifest"
    whole = path.read_bytes()
    for old, new in ((b'"length":90112', b'"length":94208'), (b'"memory.db.pages"', b'"memory.db.other"')):
        body = whole[20:].replace(old, new)
        assert body != whole[20:]
        path.write_bytes(whole[:16] + struct.pack("<I", zlib.crc32(body, zlib.crc32(whole[:16]))) + body)
        with pytest.raises(Wrong):
            read_checkpoint(tmp_path / "checkpoints", DELTA_SEQ)
