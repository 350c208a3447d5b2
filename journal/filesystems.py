"""What is known of file systems: which are another machine's promise, and what an error of theirs means for the caller.

Pure: texts and numbers of the operating system in, words out. Must not touch a file.
"""

from __future__ import annotations

import errno

from journal.errors import Corrupt, IOFault, JournalError, NoSpace, ReadOnly, Unreadable

# File systems whose locks and syncs are another machine's promise. Types as in proc(5)'s mountinfo.
NETWORK_FILESYSTEMS = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "ocfs2",
        "orangefs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.ceph",
    }
)  # fmt: skip


def filesystem_type(mountinfo: str, device: str) -> str:
    """The type of the file system on `device` ("major:minor"), by the text of /proc/self/mountinfo; "" if not there.

    A line is: id, parent, major:minor, root, mount point, options, optional fields, "-", type, source, options.
    """
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        fields = mount.split()
        if len(fields) > 2 and fields[2] == device and source:
            return source.split()[0]
    return ""


_OTHER_KIND = {
    errno.EISDIR: "a directory lies where a file belongs",
    errno.ELOOP: "a link lies where a file belongs",
    errno.ESPIPE: "a pipe lies where a file belongs",
}
"""What an open or a read says of a name that something else has taken: no disk is at fault."""


def os_fault(error: OSError, path: str) -> JournalError:
    """The declared error for one of the operating system's: the environment's, but for Corrupt where something else has
    the name."""
    reason = error.strerror or str(error)
    if error.errno in _OTHER_KIND:
        return Corrupt(_OTHER_KIND[error.errno], path=path, hint="move it away, then run: journal verify")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace(f"no space: {reason}", path=path, hint="free some disk space, then try again")
    if error.errno == errno.EROFS:
        return ReadOnly(f"not writable: {reason}", path=path, hint="check the mount")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ReadOnly(f"not allowed: {reason}", path=path, hint="check who owns it, and run this as that user")
    if error.errno == errno.ENOTDIR:
        return IOFault("no directory lies where one belongs", path=path, hint="move what lies there away")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return IOFault(f"no descriptor is free: {reason}", path=path, hint="raise the limit on open files (ulimit -n)")
    return IOFault(f"input/output failed: {reason}", path=path, hint="check the disk (dmesg, smartctl)")


# What read(2) says of bytes that are on the disk and cannot be had: of a medium error, and of a checksum of the disk
# or the file system that is wrong (ext4 and XFS: EUCLEAN and EBADMSG).
_BAD_BYTES = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)})


def read_fault(error: OSError, path: str, offset: int) -> JournalError:
    """The declared error for one that reading a file met: bad bytes are damage, and no fault of the moment."""
    if error.errno not in _BAD_BYTES:
        return os_fault(error, path)
    return Unreadable(
        f"the disk cannot read it: {error.strerror or error}", path=path, offset=offset,
        hint="journal verify --repair restores it where it can; and check the disk (dmesg, smartctl)",
    )  # fmt: skip
