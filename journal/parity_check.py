"""Reading all parity files: which are damaged, which protect other bytes than are there now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from journal.checkpoint import MANIFEST_SUFFIX
from journal.errors import Corrupt, DataError, EnvironmentFault, JournalError
from journal.parity_file import HINT, check_parity, protects, read_parity
from journal.parity_store import ParityStore


@dataclass(frozen=True, slots=True)
class ParityFinding:
    """What is wrong with one parity file. ``is_damage`` is False for one that is merely late: a note."""

    path: str
    error: JournalError
    is_damage: bool


def check_store(
    store: ParityStore, damaged: Collection[str], tick: Callable[[int], None] | None = None
) -> Iterator[ParityFinding]:
    """Reads every parity file, and the files they are of but for the paths in `damaged`, which are known to be bad.

    `tick` is called with the bytes of each parity file.
    """
    for name in store.names():
        if tick is not None:
            tick(store.size_of(name))
        yield from check_one(store, name, damaged)


def check_one(store: ParityStore, name: str, damaged: Collection[str] = ()) -> Iterator[ParityFinding]:
    """What is wrong with the parity of one file, or with that file as its parity says."""
    storage, path, target = store.storage, store.path_of(name), f"{store.journal}/{name}"
    try:
        if storage.kind(path) == "missing":
            return  # swept, or its segment packed, since it was listed
        parity = read_parity(storage, path)
        if parity.header.name != name:
            raise Corrupt(f"it is the parity of {parity.header.name}", path=path, offset=0, hint=HINT)
        yield from (ParityFinding(path, error, True) for error in check_parity(storage, parity)[:1])
        if target in damaged:
            return
        file = storage.open(target)
        try:
            same = protects(parity, file.read_at)
        finally:
            file.close()
        if not same and name.startswith("segments/"):
            told = "the segment is not what it was when it was sealed, as its parity says"
            yield ParityFinding(target, Corrupt(told, path=target, hint="journal verify --repair"), True)
        elif not same:
            late = name.endswith(MANIFEST_SUFFIX)  # the checkpoint was proven anew since
            told = "its parity is that of an earlier version" if late else "its parity is that of other bytes"
            yield ParityFinding(path, Corrupt(told, path=path, hint=HINT), not late)
    except FileNotFoundError:  # the file, or the parity, went while this looked
        if not name.startswith("segments/"):  # a missing segment is named by the one that comes after it
            gone = Corrupt("what it protected is gone", path=path, hint="journal scrub takes it away")
            yield ParityFinding(path, gone, False)
    except (DataError, EnvironmentFault) as error:
        yield ParityFinding(path, error, True)
