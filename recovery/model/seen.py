"""A model's first sight, and the model that vectors may be computed with: one whose files are as journaled.

Vectors of damaged weights would be wrong without anybody noticing, so a model that differs from its manifest is not
used. One that the journal never saw is looked at, and its files' hashes are journaled as `model.verified`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from journal.commit import draft, ticket
from journal.events import ModelVerified
from recovery.data import Data
from recovery.model.journaled import journaled_manifest, model_name
from replay.core import Core
from replay.encoder import Model, NoModel, is_available
from replay.model_files import ModelDamaged, fault_of

AGAIN_SECONDS = 60.0  # before a model that was refused is read again: that is 90 MB each time
FIRST_SIGHT = "first sight"


def model_finder(data: Data, core: Core) -> Callable[[], Model | None]:
    """What a server asks for its model: None without one or without the extra. Raises ModelDamaged.

    A refusal stands for a minute, and is then looked into again: the model may have been brought back meanwhile.
    """
    refused: tuple[float, ModelDamaged] | None = None

    def find() -> Model | None:
        nonlocal refused
        if refused is not None and monotonic() - refused[0] < AGAIN_SECONDS:
            raise refused[1]
        refused = None
        try:
            model = sound_model(data, core)
        except ModelDamaged as error:
            refused = (monotonic(), error)
            raise
        return model if is_available(data.config.embeddings.backend) else None

    return find


def sound_model(data: Data, core: Core) -> Model | None:
    """The configured model, if its files are as journaled; its first sight is journaled. Raises ModelDamaged."""
    try:
        model = data.model()
    except NoModel:
        return None
    manifest = journaled_manifest(data, data.reader())
    if manifest is None:
        fault = fault_of(model.path)
        if fault is not None:
            raise ModelDamaged(f"no usable model: {fault}", path=str(model.path), hint="journal recover model")
        journal_model(core, model, model_name(data), FIRST_SIGHT)
    elif manifest.fingerprint != model.fingerprint:
        raise ModelDamaged(
            "the model's files are not the journaled ones", path=str(model.path),
            hint="journal recover model, or journal adopt model if it was replaced on purpose",
        )  # fmt: skip
    return model


def journal_model(core: Core, model: Model, name: str, source: str) -> int:
    """Journals the model as it lies there, ahead of what others have queued; returns the seq."""
    request = ticket((draft(ModelVerified(name, model.files, source), None, "journal", None),), None)
    with core.lock:
        core.committer.commit_now(request)
    return request.result()[0].seq
