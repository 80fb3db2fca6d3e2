"""The file system under a data root: a lock, the one place that writes, and errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from merpo.errors import StorageError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the only writer's place in a namespace; a lock of the kernel's, so that a killed process frees it.

    Yields False where there are no locks (not POSIX, some network file systems): then another writer's folder
    cannot be told from a left-over, and left-overs stay.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        locked = False
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
            locked = True
        yield locked
    finally:
        os.close(handle)


def write(path: Path, content: bytes) -> None:
    """The one place where bytes reach the disk."""
    with open(path, "wb") as file:
        file.write(content)


def read(path: Path) -> bytes:
    """All bytes of a file; `StorageError` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise os_error(error, "read a file of the data set", path) from error


def size(folder: Path) -> int:
    """Bytes of all files below a folder; what vanishes or cannot be read meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def os_error(error: OSError, action: str, path: Path) -> StorageError:
    """A `StorageError` that says what could not be done, why, and what to do about it."""
    advice = {
        errno.ENOSPC: ("The disk is full: free some space, or choose another root. Nothing half-written was left."),
        errno.EDQUOT: "Your disk quota is used up: free some space, or choose another root.",
        errno.EACCES: ("You lack the permission: choose another root (MERPO_DATA_DIR), or change the folder's mode."),
        errno.EROFS: "The file system is read-only: choose another root (MERPO_DATA_DIR).",
        errno.ENOTDIR: "A part of the path is a file, not a folder: choose another root.",
        errno.EEXIST: "A part of the path is a file, not a folder: choose another root.",
        errno.ENOENT: "A file of the set is missing: restore it from a copy, or generate the set again.",
    }.get(error.errno or 0, "Check the path and the disk.")
    return StorageError(f"Cannot {action}: {error.strerror or error} ({path}). {advice}")
