"""The golden indexes, read for ever: the project and a writer made from the text alone make the same bytes of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from journal.index import BITS_PER_NAME, ENTITY_FIELDS, GRANULE_BYTES, GRANULE_RECORDS, decode_index, encode_index
from journal.index import index_of as made_index
from journal.reader import LogReader
from journal.storage import RealStorage
from tests import second_index
from tests.golden import make_v1_index
from tests.second_reader import FORMAT

GOLDEN = Path(make_v1_index.HERE)
FILES = sorted((GOLDEN / "v1-index").iterdir())


def test_a_writer_from_the_text_makes_the_golden_indexes() -> None:
    made = dict(second_index.indexes_of(GOLDEN / "v1" / "journal"))
    assert made == {path.name: path.read_bytes() for path in FILES}
    assert len(made) >= 6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_project_reads_the_golden_indexes_and_makes_them_again(path: Path) -> None:
    reader = LogReader(RealStorage(), str(GOLDEN / "v1" / "journal"))
    known = decode_index(path.read_bytes(), str(path))
    number = [each.key for each in reader.segments].index((known.first_seq, known.epoch))
    bounds = reader.bounds(number)
    assert bounds.successor is not None
    assert known.is_of(bounds.header, bounds.successor)
    assert encode_index(made_index(bounds.header, bounds.successor, reader.scan(number))) == path.read_bytes()


def test_the_text_and_the_code_name_the_same_fields_and_numbers() -> None:
    section = FORMAT.read_text(encoding="utf-8").split("\n## Sparse index\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(memory\.[a-z_]+)`(?:, `(memory\.[a-z_]+)`)* \| (.+) \|$", section, re.MULTILINE)
    assert rows
    told = {
        name: tuple(re.findall(r"`(\w+)`", fields))
        for types, fields in re.findall(r"^\| ((?:`memory\.[a-z_]+`(?:, )?)+) \| (.+) \|$", section, re.MULTILINE)
        for name in re.findall(r"`(memory\.[a-z_]+)`", types)
    }
    assert told == ENTITY_FIELDS == {name: tuple(fields) for name, fields in second_index.ENTITIES.items()}
    assert f"{GRANULE_RECORDS:,} records" in section
    assert f"{GRANULE_BYTES >> 10} KiB" in section
    assert f"{BITS_PER_NAME} bits" in section
