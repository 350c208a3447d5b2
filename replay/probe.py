"""Whether a model works: `python -m replay.probe DIR NAME BACKEND` encodes a sentence in a process of its own.

A damaged file may make torch or ONNX Runtime crash or hang; then only the child dies. The child takes its sentence's
vector and holds it against the known one, where there is one for a model of this name: the same weights give a cosine
of 1 but for the last bits, in whatever container they come and by whatever backend. Of other models it says only
whether vectors are usable and tell a paraphrase from something unrelated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from math import sqrt
from typing import cast

import msgspec

from replay.encoder import Backend
from replay.known_vectors import PROBE, known_vector

COSINE_MIN = 0.99999
TIMEOUT_SECONDS = 180.0  # importing torch and loading the model take ten on a busy machine
_PARAPHRASE = "What the server forgets, the journal remembers."
_UNRELATED = "Grapes ripen best on a sunny slope."


class Probed(msgspec.Struct, frozen=True):
    """What came of it. ``works`` is None where nothing could be said: the packages that compute vectors are missing."""

    works: bool | None
    reason: str
    cosine: float | None = None
    dimension: int | None = None


def probe(path: str, name: str, *, backend: Backend = "torch", timeout: float = TIMEOUT_SECONDS) -> Probed:
    """Runs the child and judges how it ended. Raises nothing: a model that cannot be tested is one that fails."""
    command = [sys.executable, "-P", "-m", "replay.probe", path, name, backend]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=timeout,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Probed(False, f"no vector after {timeout:g} seconds")
    if child.returncode < 0:
        return Probed(False, f"the process that loaded it was killed by signal {-child.returncode}")
    try:
        return msgspec.json.decode(child.stdout.splitlines()[-1] if child.stdout else "", type=Probed)
    except msgspec.MsgspecError:
        said = child.stderr.strip().splitlines()
        return Probed(False, said[-1][:500] if said else f"exit code {child.returncode}")


# -- the child --------------------------------------------------------------------------------------------------------


def encode_and_compare(path: str, name: str, backend: Backend) -> Probed:
    from replay.encoder import MissingExtra, Model, NoModel
    from replay.model_files import ModelDamaged
    from replay.onnx_graph import UnsuitableModel

    try:
        vectors = Model(path, backend=backend).encode([PROBE, _PARAPHRASE, _UNRELATED]).tolist()
    except (MissingExtra, UnsuitableModel) as error:
        return Probed(None, error.message)
    except (NoModel, ModelDamaged) as error:
        return Probed(False, error.message)
    known = known_vector(name)
    dimension = len(vectors[0])
    if known is None:
        near, far = cosine(vectors[0], vectors[1]), cosine(vectors[0], vectors[2])
        if not near > far:
            reason = f"a paraphrase is no nearer ({near:.3f}) than something unrelated ({far:.3f})"
            return Probed(False, reason, near, dimension)
        return Probed(True, f"a paraphrase is nearer ({near:.3f}) than something else ({far:.3f})", near, dimension)
    if dimension != len(known):
        return Probed(False, f"{dimension} numbers a vector, {len(known)} expected of {name}", None, dimension)
    found = cosine(vectors[0], known)
    if found < COSINE_MIN:
        reason = f"its vector of a known sentence has cosine {found:.5f} with the known one"
        return Probed(False, reason, found, dimension)
    return Probed(True, f"a known sentence gives its known vector (cosine {found:.7f})", found, dimension)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return float(dot / sqrt(sum(a * a for a in one) * sum(b * b for b in other)))


def main(arguments: Sequence[str]) -> int:
    path, name, backend = arguments
    print(json.dumps(msgspec.to_builtins(encode_and_compare(path, name, cast(Backend, backend)))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
