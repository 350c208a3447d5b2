"""Two names swapped in one step, so that a cut leaves either the one order or the other, and never a name without a
directory. Linux and macOS have a system call for it; some file systems do not know it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

from journal.errors import IOFault

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2); RENAME_SWAP of renamex_np(2) has the same value
_NOT_KNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def exchange(one: str, other: str) -> bool:
    """Swaps the names of two files or directories; False where the system or the file system cannot.

    Not durable before the directories are synced. Raises IOFault.
    """
    library = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(one), os.fsencode(other))
    call = getattr(library, "renamex_np" if sys.platform == "darwin" else "renameat2", None)
    if call is None:
        return False
    arguments = names if sys.platform == "darwin" else (_AT_FDCWD, names[0], _AT_FDCWD, names[1])
    if call(*arguments, _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_KNOWN:
        return False
    raise IOFault(f"the two cannot be swapped: {os.strerror(code)}", path=other, hint="nothing was changed")
