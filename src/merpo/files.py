"""Writing a file whole or not at all (temporary name, flush, rename), and what the file system's errors mean."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

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
        publish(temporary, target)
        temporary = None
    except OSError as error:
        raise storage_error(error, target, "write") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def publish(temporary: str | os.PathLike[str], target: Path) -> None:
    """Give a finished temporary file or folder its final name, with the access that the user's umask allows."""
    mode = 0o777 if os.path.isdir(temporary) else 0o666
    os.chmod(temporary, mode & ~umask())  # mkstemp and mkdtemp make private ones
    os.replace(temporary, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut; file systems that cannot do this are left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_json(path: Path, advice: str) -> Any:
    """What a JSON file holds. StorageError where it cannot be read or is no JSON, then with `advice`."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise storage_error(error, path, "read") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{str(path)!r} is damaged: not JSON ({error}). {advice}") from error


def storage_error(error: OSError, path: str | os.PathLike[str], action: str) -> StorageError:
    """A `StorageError` that says what could not be done to `path`, why, and what to do about it."""
    advice = {
        errno.ENOENT: "The file or its folder does not exist: check the path, or restore it from a copy.",
        errno.ENOTDIR: "A part of the path is a file, not a folder: choose another path.",
        errno.EEXIST: "A part of the path is a file, not a folder: choose another path.",
        errno.EISDIR: "It is a folder, a file was expected: check the path.",
        errno.EACCES: "You lack the permission: choose a folder you may use (MERPO_DATA_DIR), or change its mode.",
        errno.EPERM: "You lack the permission: choose a folder you may use (MERPO_DATA_DIR), or change its mode.",
        errno.EROFS: "The file system is read-only: choose another folder (data: MERPO_DATA_DIR).",
        errno.ENOSPC: "The disk is full: free some space or choose another folder. Nothing was damaged.",
        errno.EDQUOT: "Your disk quota is used up: free some space. Nothing was damaged.",
        errno.EFBIG: "The file would pass the size limit of this process or disk. Nothing was damaged.",
    }.get(error.errno or 0, "Check the path and the disk.")
    return StorageError(f"Cannot {action} {str(path)!r}: {error.strerror or error}. {advice}")
