"""One process at a time on a folder, and what a killed one left in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from merpo.errors import StorageError
from merpo.files import storage_error

try:
    import fcntl
except ImportError:  # Windows: no flock, so two processes on one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


def take_lock(folder: Path) -> int:
    """Lock the folder against other processes until the handle is closed; a killed process's lock is free.

    Raises `StorageError` when another process has it, or the folder cannot be written.
    """
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise storage_error(error, path, "write") from error
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise StorageError(
                f"{str(folder)!r} is in use by another process. Wait for it to end, or choose another folder."
            ) from error
        except OSError:  # a file system without locks: better unguarded than unusable
            pass
    return handle


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and remove what killed writes left. Raises as `take_lock`."""
    handle = take_lock(folder)
    try:
        sweep(folder)
        yield
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the temporary files of writes that were killed; only for who holds the folder's lock."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()
