"""Reads and writes stop short: every transfer of the process moves half of what was asked for.

POSIX allows it and local disks do it at signals, limits and full disks. The shim is real code under a real process, so
SQLite's own transfers are cut as well. Nothing may fail or be taken for whole.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ENVIRONMENT, ROOT
from tests.realjudge import judge_at_once, look, settle
from tests.realscenes import SCENES


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler for the shim that cuts transfers short, or no Linux")
    built = tmp_path_factory.mktemp("shim") / "short_io.so"
    source = ROOT / "tests" / "short_io.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(built), str(source), "-ldl"], check=True)
    return built


@pytest.mark.parametrize("scene", ["append_by_hook", "rotation", "open_after_a_kill", "restore", "backup", "recover"])
def test_every_transfer_is_short(tmp_path: Path, shim: Path, scene: str) -> None:
    root = tmp_path / "data"
    SCENES[scene].prepare(root)
    before = look(root)
    program = (
        "import os, sys; from pathlib import Path; from tests.realscenes import SCENES; "
        "os.environ['SHORT_IO'] = '1'; sys.exit(SCENES[sys.argv[1]].action(Path(sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, scene, str(root)],
        cwd=ROOT, env={**ENVIRONMENT, "LD_PRELOAD": str(shim)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    judge_at_once(root, before)
    settle(root, before)


def test_the_shim_cuts_transfers_short(tmp_path: Path, shim: Path) -> None:
    program = "import os, sys; os.environ['SHORT_IO'] = '1'; print(os.write(os.open(sys.argv[1], 65), b'0123456789'))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")],
        env={**ENVIRONMENT, "LD_PRELOAD": str(shim)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "5\n"


def test_a_claim_in_the_lock_file_is_whole(tmp_path: Path, shim: Path) -> None:
    """Half of a claim, padded with zeros, would be read as another writer's."""
    program = (
        "import os, sys; from journal.storage import RealStorage; os.environ['SHORT_IO'] = '1'; "
        "claim = bytes(range(1, 256)) * 2; lock = RealStorage().lock(sys.argv[1]); lock.write(claim); "
        "sys.exit(lock.read() != claim)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "lock")], cwd=ROOT, env={**ENVIRONMENT, "LD_PRELOAD": str(shim)}
    )
    assert done.returncode == 0
    assert (tmp_path / "lock").read_bytes() == bytes(range(1, 256)) * 2
