"""Makes the golden parity files of the golden journal v1: python -m tests.golden.make_v1_parity

They are in tests/golden/v1-parity, and are never made again to let a test pass.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from journal.parity_store import ParityStore
from journal.storage import RealStorage

HERE = Path(__file__).resolve().parent


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(HERE / "v1" / "journal", Path(scratch) / "journal")
        ParityStore(RealStorage(), f"{scratch}/journal", f"{scratch}/parity").fill()
        (Path(scratch) / "parity" / "lock").unlink()
        shutil.copytree(f"{scratch}/parity", HERE / "v1-parity")


if __name__ == "__main__":
    main()
