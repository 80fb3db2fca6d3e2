"""Random damage to any file of a set is noticed, or leaves the data exactly as they were."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merpo.data import list_sets, load, save
from merpo.data.hdf5 import read_hdf5
from merpo.errors import DataError, StorageError
from test_data_makers import make_set, same

NAME = "walk/medium"
DATA = make_set()
FILES = (
    "merpo.json",
    "flat.npz",
    "task-000-train-v2/data/main_data.hdf5",
    "task-002-test-v2/data/main_data.hdf5",
)
SEEN: Counter[str] = Counter()


@pytest.fixture(scope="module")
def root():
    folder = Path(tempfile.mkdtemp())
    save(DATA, NAME, folder)
    yield folder
    shutil.rmtree(folder)


@st.composite
def damages(draw):
    """(how, where as a fraction of the file, what)."""
    how = draw(st.sampled_from(["flip", "cut", "zero", "insert", "delete"]))
    return how, draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 255))


def apply(content: bytes, damage) -> bytes:
    how, where, what = damage
    at = int(where * len(content))
    if how == "cut":
        return content[:at]
    x = bytearray(content)
    if how == "flip":
        x[at] ^= 1 << (what % 8)
    elif how == "zero":
        x[at : at + 16] = bytes(len(x[at : at + 16]))
    elif how == "insert":
        x[at:at] = bytes([what])
    else:
        del x[at : at + 1 + what]
    return bytes(x)


@settings(max_examples=160, deadline=None, derandomize=True, database=None)
@given(name=st.sampled_from(FILES), damage=damages(), without_flat=st.booleans(), verify=st.booleans())
def damage_once(root, name, damage, without_flat, verify):
    path, flat = root / NAME / name, root / NAME / "flat.npz"
    whole, flat_whole = path.read_bytes(), flat.read_bytes()
    broken = apply(whole, damage)
    try:
        path.write_bytes(broken)
        if without_flat and path != flat:
            os.unlink(flat)
        try:
            loaded = load(NAME, root, verify=verify)
        except (StorageError, DataError) as error:
            noticed = str(error)
        else:
            noticed = ""
            assert same(loaded, DATA)
        SEEN["noticed" if noticed else "harmless"] += 1
        assert not noticed or (broken != whole and path.name in noticed)
        assert len(list_sets(root)) == 1
    finally:
        path.write_bytes(whole)
        flat.write_bytes(flat_whole)


def test_damage_is_noticed_or_harmless(root):
    SEEN.clear()
    damage_once(root)
    assert SEEN["noticed"] >= 60  # the rest: a broken flat copy replaced by the Minari files, or one not looked at
    assert same(load(NAME, root), DATA)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(damages())
def test_the_hdf5_reader_itself_raises_nothing_else(root, damage):
    """Without the hash before it: it may read wrong values, but fails only with StorageError."""
    image = apply((root / NAME / FILES[2]).read_bytes(), damage)
    try:
        read_hdf5(image, 3, "file")
    except StorageError as error:
        assert "file is not a readable Minari HDF5 file" in str(error)  # noqa: PT017
