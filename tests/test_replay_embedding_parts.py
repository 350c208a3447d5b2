"""Vectors packed into parts: read back as they were, or refused."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.checkpoint import PART_BYTES
from replay.embedding_parts import decode_rows, encode_row, pack
from replay.embeddings import Row


def row(key: bytes, model: str, vector: bytes) -> Row:
    return Row(key, model, vector, crc32(vector))


rows = st.builds(row, st.binary(min_size=32, max_size=32), st.text(max_size=40), st.binary(max_size=200))


@given(st.lists(rows, max_size=20))
def test_rows_read_back_as_they_were(written: list[Row]):
    assert decode_rows(b"".join(map(encode_row, written))) == written


def test_no_part_is_larger_than_its_bound_and_no_row_is_split():
    written = [row(bytes([number % 256]) * 32, "model", bytes(1536)) for number in range(2000)]
    parts = list(pack(written))
    assert len(parts) == 4
    assert max(map(len, parts)) <= PART_BYTES
    assert [each for part in parts for each in decode_rows(part)] == written


def test_nothing_makes_no_part():
    assert list(pack([])) == []


@given(st.lists(rows, min_size=1, max_size=3), st.data())
def test_a_part_that_ends_inside_a_row_is_refused(written: list[Row], data: st.DataObject):
    encoded = [encode_row(each) for each in written]
    cut = data.draw(st.integers(1, len(encoded[-1]) - 1))
    with pytest.raises(ValueError, match="ends early"):
        decode_rows(b"".join(encoded)[:-cut])


def test_a_vector_that_does_not_match_its_checksum_is_refused():
    encoded = bytearray(encode_row(row(bytes(32), "model", b"vector")))
    encoded[-1] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        decode_rows(bytes(encoded))
