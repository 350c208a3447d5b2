"""Agents whose names differ, and whose files are one where the file system folds names: `Writer` and `writer`.

Such a directory would let the one overwrite the other without a word. Which names it takes for one only it can say;
here those are found that any file system might (by case, by normal form, by characters that are not seen), and then the
directory is asked.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from journal.storage import Storage

SUFFIX = ".md"
_PROBE = ".~"  # shorter than what follows an agent's name, and no agent file


def folded(name: str) -> str:
    """Equal for all names that some file system might take for one, and for some that none does."""
    if name.isascii():
        return name.lower()
    seen = "".join(each for each in unicodedata.normalize("NFKD", name) if unicodedata.category(each) != "Cf")
    return unicodedata.normalize("NFKD", seen.casefold())


def groups(names: Iterable[str]) -> list[list[str]]:
    """The names that might be one file, each such group in order."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(folded(name), []).append(name)
    return [each for each in found.values() if len(each) > 1]


def are_one(storage: Storage, directory: str, one: str, other: str) -> bool | None:
    """Whether the directory takes the two for one, by the files that lie there; None where they cannot tell."""
    if any(storage.kind(f"{directory}/{name}{SUFFIX}") == "missing" for name in (one, other)):
        either = any(storage.kind(f"{directory}/{name}{SUFFIX}") != "missing" for name in (one, other))
        return False if either else None
    there = [name for name in storage.list(directory) if name.endswith(SUFFIX)]
    if {one + SUFFIX, other + SUFFIX} <= set(there):
        return False
    alike = {folded(one), folded(other)}  # some list a name in another case than it was written in
    return sum(folded(name.removesuffix(SUFFIX)) in alike for name in there) < 2


def would_be_one(storage: Storage, directory: str, one: str, other: str) -> bool:
    """The same, tried with a file that goes again, where none of the two lies there yet."""
    found = are_one(storage, directory, one, other)
    if found is not None:
        return found
    storage.make_directory(directory)
    probe = f"{directory}/{one}{_PROBE}"
    if storage.kind(probe) == "missing":
        storage.open(probe, write=True, create=True).close()
    try:
        return storage.kind(f"{directory}/{other}{_PROBE}") != "missing"
    finally:
        storage.remove(probe)
