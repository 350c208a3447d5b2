"""The power of a loop-mounted ext4 and XFS is cut under a real writer; after the log's replay every receipt is kept.

A few cuts, chosen by a seed; `python -m tests.powercuts ext4 SEED CUTS` makes as many as one likes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import loopdisk
from tests.command import ENVIRONMENT, ROOT


@pytest.mark.parametrize("kind", loopdisk.FILE_SYSTEMS)
def test_a_cut_takes_what_was_not_synced(tmp_path: Path, kind: loopdisk.FileSystem) -> None:
    """That the cuts below are cuts: with these, a journal that does not sync loses."""
    if (why := loopdisk.missing(kind)) is not None:
        pytest.skip(why)
    with loopdisk.disk(kind, tmp_path) as disk:
        for name in ("kept", "lost"):
            with (disk.at / name).open("wb") as file:
                file.write(b"x" * 5000)
                if name == "kept":
                    file.flush()
                    os.fsync(file.fileno())
        disk.cut_power()
        with pytest.raises(OSError, match="Input/output error"):
            (disk.at / "more").write_bytes(b"x")
        disk.restart()
        assert (disk.at / "kept").read_bytes() == b"x" * 5000
        assert not (disk.at / "lost").exists() or (disk.at / "lost").read_bytes() == b""


@pytest.mark.parametrize("kind", loopdisk.FILE_SYSTEMS)
def test_every_receipt_survives_power_cuts(tmp_path: Path, kind: loopdisk.FileSystem) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.powercuts", kind, "1", "12"],
        cwd=ROOT, env={**ENVIRONMENT, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kind}: 12 cuts" in done.stdout
