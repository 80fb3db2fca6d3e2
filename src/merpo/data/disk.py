"""The file system under a data root: a lock, the one place that writes, sizes and hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from merpo.files import storage_error

CHUNK = 1 << 22
"""Bytes copied at a time."""


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
    """Write a small file at once. This, `append` and `archive` are where bytes reach the disk."""
    with open(path, "wb") as file:
        file.write(content)


def append(path: Path, content: bytes | memoryview) -> None:
    """Add bytes to the end of a file."""
    with open(path, "ab") as file:
        file.write(content)


def archive(path: Path, members: Mapping[str, tuple[Path, str, tuple[int, ...]]]) -> None:
    """Bind raw columns into an `.npz`, uncompressed: per name the file with the bytes, the dtype and the shape."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as bound:
        for key, (source, dtype, shape) in members.items():
            with bound.open(f"{key}.npy", "w", force_zip64=True) as out, open(source, "rb") as raw:
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(out, header)
                shutil.copyfileobj(raw, out, CHUNK)


def read(path: Path) -> bytes:
    """All bytes of a file; `StorageError` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(error, path, "read") from error


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read piece by piece; `StorageError` when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
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
