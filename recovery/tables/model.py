"""What the facts about the embedding model and its vectors mean. Nothing of it is worse than degraded: without the
model writes go on, and texts wait for their vectors.
"""

from __future__ import annotations

from recovery.facts import ModelFacts, VectorFacts
from recovery.rows import Row

_RECOVER = "journal recover model"
_OR_ADOPT = f"{_RECOVER}, or journal adopt model if it was replaced on purpose"


def _differences(model: ModelFacts) -> str:
    parts = [model.fault] if model.fault else []
    for names, word in ((model.missing, "missing"), (model.altered, "altered"), (model.extra, "never journaled")):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            parts.append(f"{shown} {word}")
    return "; ".join(parts)


def _as_journaled(model: ModelFacts) -> str:
    told = "its files are as journaled" if model.hashed else "its files look as journaled"
    return told + (f"; {model.test}" if model.test else "")


MODEL: tuple[Row[ModelFacts], ...] = (
    Row("absent", "no model, and none was ever journaled",
        lambda m: m.kind == "missing" and not m.journaled_seq, "none", "healthy", 0,
        lambda m: "there is no model, and none was journaled"),
    Row("missing", "a model was journaled, and its directory is gone",
        lambda m: m.kind == "missing", "restore", "degraded", 3,
        lambda m: "its directory is missing: texts wait for their vectors", _RECOVER),
    Row("not_a_directory", "something else has its name: a file, a link that leads nowhere",
        lambda m: m.kind != "directory", "restore", "degraded", 3,
        lambda m: f"it is no directory, but a {m.kind}", _RECOVER),
    Row("damaged", "files are missing, of other bytes, or more than journaled; or no longer weights and configuration",
        lambda m: m.journaled_seq > 0 and (m.differs or bool(m.fault)), "restore", "degraded", 3,
        _differences, _OR_ADOPT),
    Row("failing", "its files are as journaled, and it fails its test",
        lambda m: m.journaled_seq > 0 and m.works == "no", "keep", "degraded", 3,
        lambda m: f"its files are as journaled, but it fails its test: {m.test}",
        "install the extra anew: pip install --force-reinstall 'agent-journal[embeddings]'"),
    Row("unusable", "never journaled, and no sound model: incomplete, not to be read, or failing its test",
        lambda m: not m.journaled_seq and (bool(m.fault) or m.works == "no"), "restore", "degraded", 3,
        lambda m: f"it is no usable model: {m.fault or m.test}", _RECOVER),
    Row("unjournaled", "sound, and never journaled",
        lambda m: not m.journaled_seq, "none", "healthy", 0,
        lambda m: "the journal has not seen it yet" + (f"; {m.test}" if m.test else ""), "journal adopt model"),
    Row("ok", "the journaled bytes", lambda m: True, "none", "healthy", 0, _as_journaled),
)  # fmt: skip

VECTORS: tuple[Row[VectorFacts], ...] = (
    Row("bad", "a stored vector has the wrong size, a number that is not finite, or another checksum",
        lambda v: v.bad > 0, "drop", "degraded", 3,
        lambda v: f"{v.bad} of {v.stored} vectors must not be used: "
        + "; ".join(f"{reason} ({count})" for reason, count in v.reasons.items()), _RECOVER),
    Row("ok", "every stored vector is sound", lambda v: True, "none", "healthy", 0,
        lambda v: f"{v.stored} vectors, all sound"),
)  # fmt: skip
