"""What version 1 wrote opens for ever, and docs/format.md says how: two readers, one of them written from the text."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import shutil
import sqlite3
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from journal import checkpoint, commit, delta, limits, op_ids, parity, parity_code
from journal import format as layout
from journal.event_json import event_to_json
from journal.events import type_dictionary, type_named
from journal.log import Log
from journal.pack import BODY_BYTES_MAX
from journal.reader import LogReader
from journal.record import RECORD_CONTINUES_GROUP, RECORD_UNCHECKED, Record, encode_record, generated_op_id
from journal.regions import decide
from journal.storage import RealStorage
from replay import digest, schema
from tests import second_reader
from tests.second_reader import FORMAT, TYPES, Wrong, digest_of, example, pack, read_journal, segments_in, table_value

GOLDEN = Path(__file__).resolve().parent / "golden"
JOURNALS = ("v1", "v1-torn", "v1-unchecked")


def expected(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8"))
    return loaded


def read_with_the_project(directory: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Batches and records, spelled as the golden files expect them."""
    batches, records = [], []
    for batch in LogReader(RealStorage(), str(directory)).batches():
        batches.append(
            {"first_seq": batch.first_seq, "count": batch.count, "epoch": batch.epoch, "chain": batch.chain.hex()}
        )
        for seq, record in enumerate(batch.records(), batch.first_seq):
            records.append(
                {
                    "seq": seq, "time": record.time, "clock": record.clock,
                    "op_id": record.op_id or generated_op_id(batch.epoch, seq),
                    "continues_group": bool(record.flags & RECORD_CONTINUES_GROUP), "agent": record.agent,
                    "actor": record.actor, "traceparent": record.traceparent, "event": event_to_json(record.event),
                    **({"unchecked": True} if record.flags & RECORD_UNCHECKED else {}),
                }
            )  # fmt: skip
    return batches, records


def spelled(record: dict[str, Any]) -> dict[str, Any]:
    """A record of the second reader with bytes spelled as in the golden files."""
    event: dict[str, Any] = {}
    for name, value in record["event"].items():
        if isinstance(value, bytes):
            try:
                event[name] = value.decode()
            except UnicodeDecodeError:
                event[f"{name}_base64"] = base64.b64encode(value).decode()
        else:
            event[name] = value
    return {**record, "event": event}


def as_noted(record: dict[str, Any], noted: dict[str, Any]) -> dict[str, Any]:
    """The record without fields that its type got since, which must have their defaults."""
    event = dict(record["event"])
    cls = type_named(event["type"])
    for name in set(event) - set(noted["event"]):
        (field,) = (each for each in msgspec.structs.fields(cls) if each.name == name)
        assert event.pop(name) == (field.default if field.default is not msgspec.NODEFAULT else field.default_factory())
    return {**record, "event": event}


# -- golden journals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOURNALS)
def test_a_golden_journal_reads_as_what_was_handed_to_its_writer(name: str) -> None:
    wanted = expected(name)
    batches, records = read_with_the_project(GOLDEN / name / "journal")
    assert (batches, [as_noted(*pair) for pair in zip(records, wanted["records"], strict=True)]) == (
        wanted["batches"], wanted["records"],
    )  # fmt: skip
    assert LogReader(RealStorage(), str(GOLDEN / name / "journal")).journal_id.hex() == wanted["journal_id"]


@pytest.mark.parametrize("name", JOURNALS)
def test_a_reader_written_from_the_text_reads_the_same(name: str) -> None:
    wanted = expected(name)
    read = read_journal(GOLDEN / name / "journal")
    assert read.batches == wanted["batches"]
    assert [spelled(record) for record in read.records] == wanted["records"]
    assert read.chain.hex() == wanted["batches"][-1]["chain"]


def test_the_golden_journal_holds_what_the_format_has() -> None:
    """Else a part of the format could change without a golden file noticing."""
    wanted = expected("v1")
    read = read_journal(GOLDEN / "v1" / "journal")
    segments = [segment for _, _, segment in segments_in(GOLDEN / "v1" / "journal")]
    assert {record["event"]["type"] for record in wanted["records"]} >= {
        name for name, tag in type_dictionary().items() if tag <= 30
    }
    assert read.closed
    assert any(record["continues_group"] for record in wanted["records"])
    assert any(record["op_id"] == "crm-991" for record in wanted["records"])
    assert any(record["clock"] is not None for record in wanted["records"])
    assert any(flags & layout.FLAG_ZERO_SECTORS for flags in read.flags)
    carried = {batch["first_seq"]: batch["epoch"] for batch in read.batches}
    assert any(segment.epoch > carried.get(segment.first_seq, segment.epoch) for segment in segments)
    assert len({segment.epoch for segment in segments}) < len(segments) - 1, "no rotation within an epoch"
    assert any(ord(character) > 0xFFFF for character in json.dumps(wanted, ensure_ascii=False))


def test_the_golden_torn_tail_is_set_aside_and_writing_goes_on(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "v1-torn" / "journal", tmp_path / "journal")
    assert read_journal(tmp_path / "journal").left.strip(b"\0")
    log = Log.open(RealStorage(), str(tmp_path / "journal"))
    assert (log.opening.clean, log.next_seq) == (False, 3)
    assert log.opening.torn_bytes > 512
    log.close()
    assert read_journal(tmp_path / "journal").records == read_journal(GOLDEN / "v1-torn" / "journal").records


def test_a_golden_journal_can_be_written_on(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "v1" / "journal", tmp_path / "journal")
    log = Log.open(RealStorage(), str(tmp_path / "journal"))
    assert log.opening.clean
    before = read_journal(tmp_path / "journal")
    event = type_named("tag.created")("after", 1)  # type: ignore[misc]
    log.append([encode_record(Record(0, log.last_time, None, None, None, None, None, event))], 0)
    log.close()
    after = read_journal(tmp_path / "journal")
    assert after.records[:-1] == before.records
    assert after.records[-1]["event"] == {"type": "tag.created", "name": "after", "seq": 1}


def test_the_names_and_tags_of_version_1_stand() -> None:
    for name in JOURNALS:
        for _, _, segment in segments_in(GOLDEN / name / "journal"):
            newest = max(segment.types)  # types are only ever added
            assert newest >= 30
            assert segment.types == {tag: type_ for type_, tag in type_dictionary().items() if tag <= newest}


# -- the text ---------------------------------------------------------------------------------------------------------


def test_the_second_reader_shares_no_code_with_the_project() -> None:
    tree = ast.parse(Path(second_reader.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(module).split(".")[0] for module in modules} <= {
        "__future__", "collections", "dataclasses", "hashlib", "json", "pathlib", "re", "struct", "typing", "zlib",
        "zstandard",  # the reference library, as zlib is
    }  # fmt: skip


def spell(hint: Any) -> str:
    """A field's type as the text spells it."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("nil" if each is type(None) else spell(each) for each in get_args(hint))
    if get_origin(hint) is dict:
        value = get_args(hint)[1]
        return "map" if value is Any else f"map of {spell(value)}"
    return f"list of {spell(get_args(hint)[0])}" if get_origin(hint) is list else str(hint.__name__)


def test_the_table_of_event_types_is_the_registry() -> None:
    registry: dict[str, tuple[int, list[str]]] = {}
    for name, tag in type_dictionary().items():
        cls = type_named(name)
        assert cls is not None
        hints, cells = get_type_hints(cls), []
        for each in msgspec.structs.fields(cls):
            cell = f"{each.name}: {spell(hints[each.name])}"
            if not each.required:
                default = each.default if each.default is not msgspec.NODEFAULT else each.default_factory()
                cell += " = " + ("nil" if default is None else msgspec.json.encode(default).decode())
            cells.append(cell)
        registry[name] = (tag, cells)
    assert registry == TYPES


def test_the_table_of_bad_regions_is_the_code() -> None:
    rows = re.findall(
        r"^\| (yes|no) \| (yes|no) \| (yes|no) \| ([a-z ]+) \|", FORMAT.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len({row[:3] for row in rows}) == len(rows) == 8
    for followed, covered, incomplete, verdict in rows:
        facts = {"followed": followed == "yes", "covered": covered == "yes", "incomplete": incomplete == "yes"}
        assert decide(**facts).verdict.value == verdict


def test_the_limits_are_the_codes() -> None:
    rows = re.findall(r"^\| ([^|`]+) \| ([\d,]+) \|$", FORMAT.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: int(number.replace(",", "")) for name, number in rows} == {
        "header length of a file": layout.HEADER_BYTES_MAX,
        "protected length of a parity file": parity.FILE_BYTES_MAX,
        "data and parity shards together": parity_code.SHARDS_MAX,
        "block bytes of a parity file": parity.BLOCK_BYTES_MAX,
        "payload bytes of a batch": layout.PAYLOAD_BYTES_MAX,
        "records of a batch": layout.BATCH_RECORDS_MAX,
        "events of a group": commit.GROUP_RECORDS_MAX,
        "bytes of a group": commit.GROUP_BYTES_MAX,
        "bytes of an event": limits.EVENT_BYTES_MAX,
        "bytes of an agent config": limits.CONFIG_BYTES_MAX,
        "bytes of a text (content)": limits.TEXT_BYTES_MAX,
        "bytes of a name": limits.NAME_BYTES_MAX,
        "bytes of an agent name": limits.AGENT_NAME_BYTES_MAX,
        "bytes of metadata, as JSON": limits.METADATA_BYTES_MAX,
        "depth of metadata": limits.METADATA_DEPTH_MAX,
        "items of a list or map": limits.ITEMS_MAX,
        "body bytes of a block": BODY_BYTES_MAX,
        "bytes of a part": checkpoint.PART_BYTES_MAX,
        "pages of a group": delta.GROUP_PAGES_MAX,
        "op_ids that are remembered": op_ids.OP_ID_WINDOW,
    }


def test_the_manifests_keys_are_the_codes() -> None:
    section = FORMAT.read_text(encoding="utf-8").split("\n## Checkpoints\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == {
        each.name for each in msgspec.structs.fields(checkpoint.Manifest)
    }


def test_the_schema_in_the_text_is_the_one_that_is_made() -> None:
    def shape(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
        """Names, columns with types, keys and rules; not how the statements are laid out."""
        found = {}
        query = "SELECT name, type, coalesce(tbl_name, '') FROM sqlite_master ORDER BY name"
        for name, kind, of in connection.execute(query).fetchall():
            info = [(kind, of)]
            for pragma in ("table_info", "foreign_key_list", "index_info", "index_list"):
                info += connection.execute(f"SELECT * FROM pragma_{pragma}(?)", (name,)).fetchall()
            found[name] = info
        return found

    text, code = sqlite3.connect(":memory:"), sqlite3.connect(":memory:", isolation_level=None)
    text.executescript(example("sql", 0))
    schema.create(code)
    assert shape(text) == shape(code)
    assert code.execute("PRAGMA application_id").fetchone()[0] == 0x414A4D44
    assert code.execute("PRAGMA user_version").fetchone()[0] == 1


# -- the examples -----------------------------------------------------------------------------------------------------


def hex_lines() -> list[tuple[int, bytes, str]]:
    """Offset, bytes and meaning of each line of the worked example; continuation lines joined to theirs."""
    lines: list[tuple[int, bytes, str]] = []
    for line in example("text", 0).splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+?)(?: {2,}(.+))?", line)
        assert match, line
        offset, raw, meaning = int(match[1], 16), bytes.fromhex(match[2]), match[3]
        if meaning is None:
            lines[-1] = (lines[-1][0], lines[-1][1] + raw, lines[-1][2])
        else:
            lines.append((offset, raw, meaning))
    return lines


def test_the_worked_example_is_read_by_both_readers_as_the_text_says(tmp_path: Path) -> None:
    """As the second segment of a journal whose first one is the golden journal's, which it names."""
    data = b"".join(raw for _, raw, _ in hex_lines())
    folder = tmp_path / "journal" / "segments"
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "v1" / "journal" / "segments" / "0000000000000001-000001.seg", folder)
    (folder / "0000000000000001-000002.seg").write_bytes(data)
    wanted = example("json", 1)
    read = read_journal(tmp_path / "journal")
    assert (read.closed, read.end, read.left) == (True, len(data), b"")
    for records in (read.records, read_with_the_project(tmp_path / "journal")[1]):
        shown = [{key: record[key] for key in ("seq", "time", "op_id", "agent", "event")} for record in records]
        assert shown == wanted["records"]
    reader = LogReader(RealStorage(), str(tmp_path / "journal"))
    assert reader.last_chain.hex() == read.chain.hex() == wanted["chain"]
    assert reader.tail.closed


def test_each_line_of_the_worked_example_says_what_its_bytes_are() -> None:
    lines, at = hex_lines(), 0
    for offset, raw, meaning in lines:
        assert offset == at, meaning
        at += len(raw)
        if number := re.search(r" = (\d+)$", meaning):
            assert int.from_bytes(raw, "little") == int(number[1]), meaning
        elif text := re.search(r'^(?:\w+ )?"(.*)"$', meaning):
            assert second_reader.unpack(raw) == (text[1], len(raw)), meaning
        elif scalar := re.search(r"^(?:flags|time|confidence|tag|)\s?([\d.]+)(?::.*)?$", meaning):
            assert second_reader.unpack(raw) == (float(scalar[1]) if "." in scalar[1] else int(scalar[1]), len(raw))
        elif "nil" in meaning:
            assert raw == b"\xc0"
        elif mapping := re.search(r"^metadata (\{.*\})$", meaning):
            assert second_reader.unpack(raw) == (json.loads(mapping[1]), len(raw))
        elif length := re.search(r"(map|array) of (\d+)", meaning):
            assert raw == bytes([(0x80 if length[1] == "map" else 0x90) | int(length[2])])
        else:
            assert meaning in {
                "magic", "header CRC", "journal id", "salt", "previous: chain (genesis)", "batch magic",
                "CRC of bytes 8-96 of this header", "chain before this batch", "end byte",
                "payload CRC, seeded with the header's", "payload CRC: of no bytes, so the header's CRC",
            }  # fmt: skip


def test_the_example_of_the_digest_is_what_both_compute() -> None:
    state = example("json", 0)
    section = FORMAT.read_text(encoding="utf-8").split("\n## State digest")[1].split("\n## ")[0]
    values = dict(re.findall(r"^\| ([a-z ]+) \| `([0-9a-f]+)` \|$", section, re.MULTILINE))
    entity = pack(state["entities"][0])
    computed = {
        "row of the entity": entity.hex(),
        "leaf of entities": hashlib.sha256(entity).hexdigest(),
        "value of entities": table_value({0: state["entities"]}).hex(),
        "value of agents": table_value({0: state["agents"]}).hex(),
        "digest": digest_of(state),
        "digest of an empty state": digest_of({}),
    }
    assert computed == values
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.create(connection)
    assert digest.state_digest(connection) == values["digest of an empty state"]
    connection.execute("INSERT INTO entities VALUES (?, ?, ?, ?, ?, ?, ?, ?)", state["entities"][0])
    name, sha256, status, reason, updated_at = state["agents"][0]
    content = b"---\nname: ledger\n---\n"
    connection.execute(
        "INSERT INTO agents VALUES (?, ?, ?, ?, ?, ?)", (name, sha256, content, status, reason, updated_at)
    )
    assert digest.state_digest(connection) == values["digest"]


def test_the_second_reader_refuses_what_the_text_refuses() -> None:
    """A reader that took anything would agree with everything."""
    data = b"".join(raw for _, raw, _ in hex_lines())
    whole = second_reader.Journal()
    second_reader.read_batches(data, second_reader.read_segment(data), whole)
    assert (len(whole.records), whole.closed) == (2, True)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        read = second_reader.Journal()
        try:
            second_reader.read_batches(bytes(damaged), second_reader.read_segment(bytes(damaged)), read)
        except Wrong:
            continue
        assert len(read.records) < 2 or not read.closed, position
