"""Makes the golden packs of the golden journal v1: python -m tests.golden.make_v1_packed

They are in tests/golden/v1-packed, one for each sealed segment but the last, and are never made again to let a test
pass. Such short segments are not packed otherwise.
"""

from __future__ import annotations

from pathlib import Path

from journal.pack import encode_pack
from journal.packing import packable
from journal.segment import packed_path
from journal.storage import RealStorage

HERE = Path(__file__).resolve().parent


def main() -> None:
    (HERE / "v1-packed").mkdir()
    for each in packable(RealStorage(), str(HERE / "v1" / "journal"), 1):
        path = Path(each.path)
        packed = HERE / "v1-packed" / Path(packed_path(each.path)).name
        packed.write_bytes(encode_pack(path.read_bytes()[: each.end.offset], str(packed)))


if __name__ == "__main__":
    main()
