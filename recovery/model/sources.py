"""Where a model's files come from when they are lost: a local mirror, then a hub. Each file by name, into a directory.

Knows how to fetch; must not know whether what came is right: whoever asked holds it against a manifest. A source that
does not answer says why, and the next one is asked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from recovery.data import Data
from replay.model_files import determining, determining_files, fault_of, module_folders

Progress = Callable[[str, int, int], None]
"""Called with a file's name, bytes done and bytes in all."""

FILE_MODE = 0o600
PARTS = ".parts"


class SourceFailed(Exception):
    """This source cannot give the file; the text says why. One that is ``silent`` need not be asked for others."""

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


class Source(Protocol):
    @property
    def label(self) -> str:
        """What is journaled of it."""
        ...

    def names(self, into: str) -> list[str]:
        """The files of a whole model, for one whose manifest is not known. Raises SourceFailed."""
        ...

    def fetch(self, name: str, into: str, progress: Progress | None) -> None:
        """Puts the file at `into`/`name`, synced. Raises SourceFailed; what came so far may stay for the next run."""
        ...


def sources_of(data: Data, name: str) -> tuple[list[Source], list[str]]:
    """The configured sources in the order to ask, and why others are not."""
    found: list[Source] = []
    without: list[str] = []
    mirror = data.config.mirror_path(data.root)
    if mirror is None:
        without.append("no mirror is configured (embeddings.mirror)")
    else:
        found.append(Mirror(mirror, name))
    settings = data.config.embeddings
    if settings.hub == "off":
        without.append("the hub is off (embeddings.hub)")
    else:
        hub, reason = Hub.find(settings.hub, settings.repository, settings.revision)
        found += [hub] if hub is not None else []
        without += [reason] if hub is None else []
    return found, without


class Mirror:
    """A directory with the model's original files, or one that holds such a directory under the model's name."""

    def __init__(self, directory: str, name: str) -> None:
        below = os.path.join(directory, name)
        self.directory = below if os.path.isdir(below) else directory

    @property
    def label(self) -> str:
        return f"mirror {self.directory}"

    def names(self, into: str) -> list[str]:
        fault = fault_of(Path(self.directory))
        if fault is not None:
            raise SourceFailed(f"{self.directory}: {fault}")
        return sorted(determining_files(Path(self.directory)))

    def fetch(self, name: str, into: str, progress: Progress | None) -> None:
        try:
            copy_file(os.path.join(self.directory, name), os.path.join(into, name))
        except FileNotFoundError:
            raise SourceFailed(f"{self.directory} has no {name}") from None
        except OSError as error:
            raise SourceFailed(f"{name} cannot be copied from {self.directory}: {error.strerror or error}") from error


class Hub:
    """A hub that speaks the Hugging Face protocol, through its own client.

    The client goes on where a connection broke. Its own download to a file would forget what a killed process had, so
    the file that grows is kept here.
    """

    def __init__(self, endpoint: str, repository: str, revision: str) -> None:
        self.endpoint = endpoint
        self.repository = repository
        self.revision = revision

    @classmethod
    def find(cls, endpoint: str, repository: str, revision: str) -> tuple[Hub | None, str]:
        """The hub, or None and why it is not asked."""
        try:
            from huggingface_hub import constants
        except ImportError:
            return None, "huggingface_hub is not installed (extra embeddings), so no hub is asked"
        if constants.HF_HUB_OFFLINE:
            return None, "HF_HUB_OFFLINE is set, so no hub is asked"
        return cls(endpoint or constants.ENDPOINT, repository, revision), ""

    @property
    def label(self) -> str:
        return f"hub {self.endpoint}/{self.repository}@{self.revision}"

    def names(self, into: str) -> list[str]:
        from huggingface_hub import HfApi

        with self._told():
            there = HfApi(endpoint=self.endpoint).list_repo_files(self.repository, revision=self.revision)
        if "modules.json" not in there:
            raise SourceFailed(f"{self.label} has no modules.json")
        self.fetch("modules.json", into, None)
        folders = {folder.relative_to(into).as_posix() for folder in module_folders(Path(into))} | {"."}
        found: list[str] = []
        for folder in sorted(folders):
            names = [name for name in there if (os.path.dirname(name) or ".") == folder]
            chosen = set(determining([os.path.basename(name) for name in names]))
            found += [name for name in names if os.path.basename(name) in chosen]
        return found

    def fetch(self, name: str, into: str, progress: Progress | None) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers, logging

        logging.set_verbosity(logging.ERROR)  # it would warn on stderr of each retry
        target = os.path.join(into, name)
        with self._told():
            url = hf_hub_url(self.repository, name, revision=self.revision, endpoint=self.endpoint)
            headers = build_hf_headers()
            there = get_hf_file_metadata(url, headers=headers)
            part = _part(into, name, there.etag or "")
            if urlsplit(there.location).netloc != urlsplit(url).netloc:
                headers.pop("authorization", None)  # the token is the hub's business, not that of where it points to
            with open(part, "ab", opener=_private) as file:
                if there.size is not None and file.tell() > there.size:
                    file.truncate(0)  # it can only be wrong
                done = os.fstat(file.fileno()).st_size
                tell = _Bar(name, progress, done, there.size or 0)
                http_get(there.location, file, resume_size=done, headers=headers, expected_size=there.size,
                         _tqdm_bar=cast(Any, tell))  # fmt: skip
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        _sync(part)
        os.replace(part, target)

    @contextmanager
    def _told(self) -> Any:
        from huggingface_hub.errors import EntryNotFoundError

        try:
            yield
        except Exception as error:  # the client's errors, and those of the libraries below it, share no base class
            first = next((line for line in str(error).splitlines() if line.strip()), "") or type(error).__name__
            silent = not isinstance(error, EntryNotFoundError)
            raise SourceFailed(f"{self.label}: {first[:300]}", silent=silent) from error


def forget_downloads(into: str) -> None:
    """Removes what is left of downloads that did not end."""
    shutil.rmtree(os.path.join(into, PARTS), ignore_errors=True)


def _part(into: str, name: str, etag: str) -> str:
    """Where the file grows, named by its version on the hub: a part of another version is begun anew."""
    os.makedirs(os.path.join(into, PARTS), mode=0o700, exist_ok=True)
    return os.path.join(into, PARTS, hashlib.sha256(f"{name}\n{etag}".encode()).hexdigest())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def copy_file(source: str, target: str) -> None:
    """A synced copy. What is half copied after a cut is noticed by its hash. Raises OSError."""
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    with suppress(FileNotFoundError):
        os.unlink(target)
    shutil.copyfile(source, target)
    os.chmod(target, FILE_MODE)
    _sync(target)


def sync_directories(names: Iterable[str], root: str) -> None:
    """Makes the names durable, with those of the folders they lie in."""
    folders = {root, *(os.path.dirname(os.path.join(root, name)) for name in names)}
    for folder in folders:
        _sync(folder)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Bar:
    """What the hub's client reports to, in place of a bar of its own."""

    def __init__(self, name: str, progress: Progress | None, done: int, total: int) -> None:
        self._name = name
        self._progress = progress
        self._done = done
        self._total = total

    def update(self, count: float) -> None:
        self._done += int(count)
        if self._progress is not None:
            self._progress(self._name, self._done, max(self._total, self._done))
