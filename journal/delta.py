"""The pages of a file that differ from an older one, compressed against what they came from.

    group  = count (2 bytes), count x (page (4), source (4)), length (4), one zstd frame of count pages
    part   = groups, one after the other

Knows bytes; must not know where the files are, nor what is in a page. A page is 4,096 bytes and numbered from 1. Its
source is the page of the older file whose bytes help to tell it, 0 if none does: the sources of a group, each once and
in order, are the dictionary of its frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from journal.errors import Corrupt

PAGE_BYTES = 4096
GROUP_PAGES_MAX = 256
_WINDOW_LOG = 21  # a dictionary and the pages it tells, 1 MiB each

_COUNT = struct.Struct("<H")
_PAGE = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
ENTRY_BYTES = _PAGE.size


class Entry(NamedTuple):
    page: int
    source: int  # 0: none


class Group(NamedTuple):
    entries: Sequence[Entry]
    frame: bytes
    offset: int  # of the group, in its part


def sources_of(entries: Sequence[Entry]) -> list[int]:
    """The pages whose bytes are a group's dictionary, in order."""
    return list(dict.fromkeys(entry.source for entry in entries if entry.source))


def encode_group(entries: Sequence[Entry], pages: bytes, sources: bytes) -> bytes:
    """One group: `pages` are those of `entries`, `sources` those of `sources_of(entries)`, in order."""
    import zstandard  # costs 10 ms, and few commands read a checkpoint

    dictionary = zstandard.ZstdCompressionDict(sources, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if sources else None
    parameters = zstandard.ZstdCompressionParameters(
        window_log=_WINDOW_LOG, strategy=zstandard.STRATEGY_FAST, hash_log=17, chain_log=16, search_log=1, min_match=5,
        target_length=1, write_content_size=True,
    )  # fmt: skip
    frame = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress(pages)
    table = b"".join(_PAGE.pack(*entry) for entry in entries)
    return _COUNT.pack(len(entries)) + table + _LENGTH.pack(len(frame)) + frame


def decode_groups(data: bytes, path: str) -> Iterator[Group]:
    """The groups of a part, their frames as they are. Raises Corrupt where the part is none."""
    offset = 0
    while offset < len(data):
        table = offset + _COUNT.size
        if table > len(data):
            raise Corrupt("a group ends in its count", path=path, offset=offset)
        (count,) = _COUNT.unpack_from(data, offset)
        if not 1 <= count <= GROUP_PAGES_MAX:
            raise Corrupt(f"a group of {count} pages, where 1 to {GROUP_PAGES_MAX} can be", path=path, offset=offset)
        frame = table + count * _PAGE.size + _LENGTH.size
        if frame > len(data):
            raise Corrupt("a group ends in its table", path=path, offset=offset)
        (length,) = _LENGTH.unpack_from(data, frame - _LENGTH.size)
        if frame + length > len(data):
            raise Corrupt("a group ends in its pages", path=path, offset=offset)
        entries = [Entry(*each) for each in _PAGE.iter_unpack(data[table : frame - _LENGTH.size])]
        if min(entry.page for entry in entries) == 0:
            raise Corrupt("pages are numbered from 1", path=path, offset=offset)
        yield Group(entries, data[frame : frame + length], offset)
        offset = frame + length


def decode_pages(group: Group, sources: bytes, path: str) -> bytes:
    """The pages of a group, one after the other. Raises Corrupt where its frame does not hold just so many.

    What the frame claims is held against the count before anything is allocated.
    """
    import zstandard

    wanted = len(group.entries) * PAGE_BYTES
    dictionary = zstandard.ZstdCompressionDict(sources, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if sources else None
    try:
        if zstandard.frame_content_size(group.frame) != wanted:
            raise Corrupt(f"a group's frame does not hold {wanted} bytes", path=path, offset=group.offset)
        pages = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << _WINDOW_LOG).decompress(
            group.frame, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Corrupt(f"a group cannot be unpacked: {error}", path=path, offset=group.offset) from error
    if len(pages) != wanted:
        raise Corrupt(f"a group unpacks to {len(pages)} bytes, not {wanted}", path=path, offset=group.offset)
    return pages
