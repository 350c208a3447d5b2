"""Earlier versions of an agent file in the git repository that agents/ lies in, at its top or below.

Read by git's plumbing from its objects: neither the work tree nor the index is looked at, written or locked. Must not
know what makes a version valid.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from journal.limits import CONFIG_BYTES_MAX

COMMITS_BACK = 5
_SECONDS_MAX = 30
# Of the one who runs this, they would lead to another repository; and nothing may ask, lock or fetch.
_CLEARED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE")
_SET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


class Version(NamedTuple):
    """One version: the revisions that have it, its bytes; or None, and why not."""

    source: str
    content: bytes | None
    problem: str = ""


def versions(directory: str, file: str) -> Iterator[Version]:
    """`file` in HEAD and the five commits before it, newest first, each content once; what git complains of, too."""
    revisions = ["HEAD", *(f"HEAD~{back}" for back in range(1, COMMITS_BACK + 1))]
    if not os.path.isdir(directory):
        yield Version("git", None, "there is no agents directory")
        return
    if "\n" in file:
        yield Version("git", None, "its name has a line end")
        return
    # `git show REV:path`, but for all at once and without what a user's configuration makes of the output
    names = "".join(f"{revision}:./{file}\n" for revision in revisions)
    told, problem = _git(directory, "cat-file", "--batch-check", given=os.fsencode(names))
    if told is None:
        yield Version("git", None, problem)
        return
    found: dict[str, tuple[list[str], int]] = {}
    for revision, line in zip(revisions, told.decode(errors="replace").splitlines(), strict=False):
        match line.rsplit(" ", 2):
            case [oid, "blob", size]:
                found.setdefault(oid, ([], int(size)))[0].append(revision)
    if not found:
        yield Version("git", None, f"no commit from HEAD to HEAD~{COMMITS_BACK} has {file}")
    for oid, (having, length) in found.items():
        source = f"{having[0]}, blob {oid[:12]}"
        if length > CONFIG_BYTES_MAX:
            yield Version(source, None, f"{length} bytes are no config")
            continue
        content, problem = _git(directory, "cat-file", "blob", oid)
        yield Version(source, content, problem)


def _git(directory: str, *arguments: str, given: bytes = b"") -> tuple[bytes | None, str]:
    """What git printed; or None, and what it complained of."""
    environment = {key: value for key, value in os.environ.items() if key not in _CLEARED} | _SET
    command = ["git", "-c", "core.fsmonitor=false", "-C", directory, *arguments]
    try:
        ran = subprocess.run(
            command, input=given, capture_output=True, env=environment, timeout=_SECONDS_MAX, check=False
        )
    except FileNotFoundError:
        return None, "git is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"git cannot be run: {error}"
    if ran.returncode != 0:
        lines = ran.stderr.decode(errors="replace").strip().splitlines() or [f"git ended with {ran.returncode}"]
        return None, lines[0].removeprefix("fatal: ")
    return ran.stdout, ""
