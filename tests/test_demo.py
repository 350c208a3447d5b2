"""The demo as a newcomer runs it, and its figures."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.command import ENVIRONMENT, ROOT


def test_the_demo_loses_nothing_and_proves_its_digest() -> None:
    done = subprocess.run(
        [sys.executable, "docs/examples/demo.py", "--acknowledged", "3000"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    match = re.fullmatch(
        r"demo: ok acknowledged=(\d+) lost=(\d+) altered=(\d+) digest=([0-9a-f]{64}) seconds=(\d+\.\d)", last
    )
    assert match, last
    assert int(match[1]) >= 3000
    assert (match[2], match[3]) == ("0", "0")
    assert "killed with SIGKILL in mid-write" in done.stdout
    assert "exits 1" in done.stdout, "the wreck was not noticed"
    assert match[4][:16] in done.stdout
