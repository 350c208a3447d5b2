"""Makes the golden indexes of the golden journal v1: python -m tests.golden.make_v1_index

They are in tests/golden/v1-index, one for each sealed segment that holds records, and are never made again to let a
test pass. Such short segments get no index otherwise.
"""

from __future__ import annotations

from pathlib import Path

from journal.index import encode_index, index_of
from journal.reader import LogReader
from journal.storage import RealStorage

HERE = Path(__file__).resolve().parent


def main() -> None:
    reader = LogReader(RealStorage(), str(HERE / "v1" / "journal"))
    (HERE / "v1-index").mkdir()
    for number in range(len(reader.segments) - 1):
        bounds = reader.bounds(number)
        if bounds.successor is not None and bounds.last_seq >= bounds.header.first_seq:
            made = encode_index(index_of(bounds.header, bounds.successor, reader.scan(number)))
            (HERE / "v1-index" / Path(reader.indexes.path_of(reader.segments[number].key)).name).write_bytes(made)


if __name__ == "__main__":
    main()
