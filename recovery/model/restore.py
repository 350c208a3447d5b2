"""Putting a lost or damaged model back: what is good of it, then a mirror, then a hub; proven, swapped, journaled.

The files are gathered in a directory beside, each held against the journaled manifest; so a run that was cut goes on
with what is there. Of a model that was never journaled nothing is known but whether it works: that is what is asked of
what a source gives. The old directory goes to quarantine. Between that and the renaming of the new one there is a
moment without a model, never one with half of it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from time import time_ns

from journal.errors import EnvironmentFault, IOFault
from journal.events import ModelReplaced
from journal.log import Log
from recovery.data import Data
from recovery.model.journaled import Manifest, journaled_manifest, model_name
from recovery.model.sources import (
    Progress,
    Source,
    SourceFailed,
    copy_file,
    forget_downloads,
    sources_of,
    sync_directories,
)
from recovery.recovered import RestoredModel
from replay.agent_quarantine import set_aside
from replay.encoder import Backend
from replay.model_files import ModelDamaged, determining_files, fault_of, sha256_of
from replay.own_events import journal_event
from replay.probe import probe


class NotRestored(EnvironmentFault):
    """No source gave all of the model's files. Everything else stands: texts wait for their vectors."""

    exit_code = 3
    code = "model_not_restored"


def restore_model(data: Data, log: Log, progress: Progress | None = None) -> RestoredModel:
    """Makes the configured model what the journal says, or a working one. Raises NotRestored; then nothing changed."""
    storage, path, name = data.storage, data.config.model_path(data.root), model_name(data)
    parent = os.path.dirname(path)
    building = f"{parent}/.{name}.building"
    storage.make_directory(parent)
    storage.make_directory(building)
    manifest = journaled_manifest(data, log.reader())
    sources, without = sources_of(data, name)
    gathered = _Gathering(path, building, manifest, progress, data.config.embeddings.backend)
    try:
        gathered.fill(sources, without)
    except OSError as error:
        raise NotRestored(
            f"the model's files cannot be written: {error.strerror or error}", path=building,
            hint="free some disk space or check its permissions, then: journal recover model",
        ) from error  # fmt: skip
    files, test = gathered.proven(name)
    forget_downloads(building)
    _remove_others(building, files)
    sync_directories(files, building)
    aside = None
    if storage.kind(path) != "missing":
        aside = _set_aside(data, path)
    storage.replace(building, path)
    storage.sync_dir(parent)
    source = "; ".join(sorted(gathered.used)) or "its own files"
    journal_event(log, ModelReplaced(name, files, source))
    return RestoredModel(source, len(files), gathered.kept, gathered.fetched, aside, test)


def _set_aside(data: Data, path: str) -> str:
    """To the quarantine; beside, where the models lie on a file system of their own."""
    now, reason = time_ns(), "journal recover: the model was damaged"
    try:
        return set_aside(data.storage, path, data.quarantine, time=now, reason=reason)
    except IOFault as error:
        if getattr(error.__cause__, "errno", None) != errno.EXDEV:
            raise
        folder, name = os.path.split(path)
        kept = f"{folder}/.{name}.replaced-{now}"
        data.storage.replace(path, kept)
        return kept


class _Gathering:
    """The files of one restoration, as they come together in `building`."""

    def __init__(
        self, path: str, building: str, manifest: Manifest | None, progress: Progress | None, backend: Backend
    ) -> None:
        self.path = path
        self.backend: Backend = backend
        self.building = building
        self.manifest = manifest
        self.progress = progress
        self.used: set[str] = set()
        self.kept = 0
        self.fetched = 0

    def fill(self, sources: list[Source], without: list[str]) -> None:
        """Raises NotRestored with every source's reason, or OSError."""
        if self.manifest is not None:
            self._by_manifest(self.manifest, sources, without)
        else:
            self._as_a_whole(sources, without)

    def proven(self, name: str) -> tuple[dict[str, str], str]:
        """The files with their sha256, and what proves them. Raises NotRestored where they make no model."""
        where = Path(self.building)
        fault = fault_of(where)
        test = ""
        if self.manifest is None and fault is None:
            found = probe(self.building, name, backend=self.backend)
            fault, test = found.reason if found.works is False else None, found.reason
        if fault is not None:
            raise NotRestored(
                f"what was gathered is no usable model: {fault}", path=self.building,
                hint="name another source: embeddings.mirror or embeddings.repository",
            )  # fmt: skip
        names = self.manifest.files if self.manifest is not None else determining_files(where)
        return {each: sha256_of(where / each) for each in sorted(names)}, test or "its hashes are the journaled ones"

    def _by_manifest(self, manifest: Manifest, sources: list[Source], without: list[str]) -> None:
        reasons: list[str] = []
        lacking: list[str] = []
        silent: set[str] = set()
        for number, (name, sha256) in enumerate(sorted(manifest.files.items()), 1):
            if self.progress is not None:
                self.progress("restore the model", number, len(manifest.files))
            if not self._find(name, sha256, sources, silent, reasons):
                lacking.append(name)
        if lacking:
            told = "; ".join([*dict.fromkeys(reasons), *without])
            raise NotRestored(
                f"{len(lacking)} of the model's {len(manifest.files)} files cannot be had ({', '.join(lacking[:3])}): "
                f"{told}",
                path=self.path,
                hint="put the original files into embeddings.mirror, or run it again with a network",
            )

    def _find(self, name: str, sha256: str, sources: list[Source], silent: set[str], reasons: list[str]) -> bool:
        """True once the file is there with this hash. A source that did not answer is not asked again."""
        target = os.path.join(self.building, name)
        if _has(target, sha256):  # from a run that was cut
            self.kept += 1
            return True
        own = os.path.join(self.path, name)
        if _has(own, sha256):
            copy_file(own, target)
            self.kept += 1
            return True
        for source in sources:
            if source.label in silent:
                continue
            try:
                source.fetch(name, self.building, self.progress)
            except SourceFailed as failure:
                reasons.append(str(failure))
                silent |= {source.label} if failure.silent else set()
                continue
            if _has(target, sha256):
                self.used.add(source.label)
                self.fetched += 1
                return True
            os.unlink(target)  # it would pass for a finished download
            reasons.append(f"{source.label} has another {name} than was journaled")
        return False

    def _as_a_whole(self, sources: list[Source], without: list[str]) -> None:
        """All from one source: files of two would make a model that nobody has ever tested."""
        reasons: list[str] = []
        for source in sources:
            try:
                for name in source.names(self.building):
                    source.fetch(name, self.building, self.progress)
                    self.fetched += 1
            except (SourceFailed, ModelDamaged) as failure:
                reasons.append(str(failure))
                self.fetched = 0
                continue
            self.used.add(source.label)
            return
        raise NotRestored(
            f"no source has the model: {'; '.join([*reasons, *without])}", path=self.path,
            hint="set embeddings.mirror in journal.yaml, or run it again with a network",
        )  # fmt: skip


def _has(path: str, sha256: str) -> bool:
    try:
        return os.path.isfile(path) and sha256_of(Path(path)) == sha256
    except OSError:
        return False


def _remove_others(building: str, files: dict[str, str]) -> None:
    """Files of an earlier run that are no part of this model."""
    for folder, _, names in os.walk(building):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.relpath(path, building) not in files:
                os.unlink(path)
