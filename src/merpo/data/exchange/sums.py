"""SHA-256 sums beside exported files, in the format of `sha256sum`: what a copy lost is noticed when it is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from merpo.data import disk
from merpo.errors import StorageError
from merpo.files import write_atomic

SUMS = "SHA256SUMS"
DEEPEST = 3
"""Levels below the sums at which a data set's folder may lie."""
LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


def write_sums(folder: Path, files: Sequence[Path]) -> None:
    """Add the sums of `files` (in `folder`) to its sums file, in place of earlier ones of the same names."""
    sums = _read(folder / SUMS) if (folder / SUMS).exists() else {}
    sums |= {str(f.relative_to(folder)): disk.sha256_file(f) for f in files}
    write_atomic(folder / SUMS, "".join(f"{value}  {name}\n" for name, value in sorted(sums.items())))


def verify_sums(files: Sequence[Path]) -> int:
    """Check files (or all files of a folder) named in a `SHA256SUMS` beside (or in) them; how many were.

    Raises `StorageError` for a file that differs from its sum, or a listed file of a folder that is missing.
    """
    read: dict[Path, dict[str, str]] = {}
    checked = 0
    for file in files:
        # a folder may be listed from above: Minari data sets lie some levels below what was exported
        above = [file, *file.absolute().parents[:DEEPEST]] if file.is_dir() else [file.parent]
        for folder in above:
            if folder not in read:
                read[folder] = _read(folder / SUMS) if (folder / SUMS).is_file() else {}
            sums = read[folder]
            own = "" if folder == file else str(file.absolute().relative_to(folder.absolute()))
            names = [own] if own in sums else [n for n in sums if not own or n.startswith(f"{own}/")]
            for name in names:
                path = folder / name
                if not path.is_file():
                    raise StorageError(f"{path}: missing, although {SUMS} lists it. Copy the folder again.")
                if disk.sha256_file(path) != sums[name]:
                    raise StorageError(
                        f"{path}: its SHA-256 differs from the one in {folder / SUMS}; the file is damaged or was"
                        f" changed. Copy it again; if the change is meant, remove its line from {SUMS}."
                    )
            checked += len(names)
    return checked


def _read(path: Path) -> dict[str, str]:
    try:
        lines = disk.read(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise StorageError(f"{path}: damaged ({error}). Copy it again, or remove it.") from error
    sums = {}
    for line in lines:
        match = LINE.fullmatch(line)
        if match is None or ".." in match.group(2).split("/") or match.group(2).startswith("/"):
            raise StorageError(f"{path}: damaged (the line {line[:80]!r}). Copy it again, or remove it.")
        sums[match.group(2)] = match.group(1)
    return sums
