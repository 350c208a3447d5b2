"""Reading all index files: which are damaged, and which are of another segment than the one that lies there now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from journal.errors import Corrupt, DataError
from journal.format import BATCH_HEADER_BYTES, decode_batch_header
from journal.index import SegmentIndex
from journal.index_store import IndexStore, Key
from journal.indexing import is_worth_one, make_index
from journal.reader import LogReader
from journal.storage import Storage

HINT = "it is derived, and lookups read the segment instead: journal verify --repair makes it anew"


@dataclass(frozen=True, slots=True)
class IndexFinding:
    """What is wrong with one index file. ``is_damage`` is False for one that is merely late: a note."""

    key: Key
    path: str
    error: DataError
    is_damage: bool


def check_indexes(
    storage: Storage, directory: str, *, deep: bool = False, tick: Callable[[int], None] | None = None
) -> Iterator[IndexFinding]:
    """Reads every index, and holds each of its granules against the batch that lies there.

    `deep` makes each anew from its segment and compares all of it. `tick` is called with the bytes of each file.
    """
    store = IndexStore(storage, directory)
    keys = store.listed()
    try:
        reader = LogReader(storage, directory) if keys else None
    except DataError:
        reader = None  # what is wrong with the log is told of it
    for key in keys:
        path = store.path_of(key)
        try:
            if tick is not None:
                tick(storage.size(path))
            index = store.load(key)
            problem = _wrong_with(reader, key, index, path, deep) if reader is not None else None
        except FileNotFoundError:
            continue  # swept just now
        except DataError as error:
            error.hint = error.hint or HINT
            problem = IndexFinding(key, path, error, True)
        if problem is not None:
            yield problem


def _wrong_with(reader: LogReader, key: Key, index: SegmentIndex, path: str, deep: bool) -> IndexFinding | None:
    number = next((n for n, each in enumerate(reader.segments) if each.key == key), None)
    try:
        of_it = number is not None and is_worth_one(reader, number) and reader.index_of(number) is not None
    except DataError:
        return None  # of the segment, and told there
    if number is None or not of_it:
        late = Corrupt("the index is of no segment that lies here, so nobody uses it", path=path, hint=HINT)
        return IndexFinding(key, path, late, False)
    try:
        if deep:
            made = make_index(reader, number)
            agrees = made is None or made == index
        else:
            agrees = _begins_where_it_says(reader, number, index)
    except DataError:
        return None  # of the segment as well: a block of a packed one
    if agrees:
        return None
    return IndexFinding(key, path, Corrupt("the index is not that of its segment", path=path, hint=HINT), True)


def _begins_where_it_says(reader: LogReader, number: int, index: SegmentIndex) -> bool:
    for granule in index.granules:
        found = decode_batch_header(reader.read(number, granule.offset, BATCH_HEADER_BYTES), 0)
        if found is None:
            return True  # the segment is damaged there, which is told of it
        if (found.salt, found.first_seq, found.previous_chain) != (index.salt, granule.seq, granule.chain):
            return False
    return True
