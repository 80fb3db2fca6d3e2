"""The file system under a data root: a lock, the one place that writes, sizes and hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from merpo.files import storage_error


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
        raise storage_error(error, path, "read") from error


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
