"""Writing a file whole or not at all: temporary name in the same folder, flush to disk, then rename."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from merpo.errors import StorageError


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Replace `path` by `content`; after a kill or a full disk the old file is there, never half of the new.

    Raises `StorageError` when the folder is missing or read-only, or the disk is full.
    """
    target = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files private; ours follow the user's umask
        os.replace(temporary, target)
        temporary = None
        sync_folder(target.parent)
    except OSError as error:
        raise storage_error(error, target, "write") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut; file systems that cannot do this are left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def storage_error(error: OSError, path: str | os.PathLike[str], action: str) -> StorageError:
    """A `StorageError` that says what could not be done to `path`, why, and what to do about it."""
    advice = {
        errno.ENOENT: "The file or its folder does not exist: check the path.",
        errno.ENOTDIR: "A part of the path is a file, not a folder: check the path.",
        errno.EISDIR: "It is a folder, a file was expected: check the path.",
        errno.EACCES: "You lack the permission: choose a folder you may write to, or change its mode.",
        errno.EPERM: "You lack the permission: choose a folder you may write to, or change its mode.",
        errno.EROFS: "The file system is read-only: choose another folder.",
        errno.ENOSPC: "The disk is full: free some space or choose another folder. Nothing was damaged.",
        errno.EDQUOT: "Your disk quota is used up: free some space. Nothing was damaged.",
        errno.EFBIG: "The file would pass the size limit of this process or disk. Nothing was damaged.",
    }.get(error.errno or 0, "Check the path and the disk.")
    return StorageError(f"Cannot {action} {str(path)!r}: {error.strerror or error}. {advice}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
