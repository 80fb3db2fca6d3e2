"""Malformed configurations, checkpoints, states and run folders: an error that says what to do, or something legal.

Some 700 of them here, drawn by hypothesis; damaged data sets are in test_data_damage.py and test_data_exchange_damage.py.
Structured damage keeps the checksums right, as only a writer of its own could: what reads the file may not rely on them.
"""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
from collections import Counter
from dataclasses import fields, is_dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import merpo
from merpo import cli
from merpo.algorithms import rac
from merpo.algorithms.context import Context
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.pipeline import Learned
from merpo.commands import train as train_module
from merpo.commands.record import DataRef, RunRecord, read_record
from merpo.commands.train import read_settings
from merpo.data import Preparation, TaskSet, storage
from merpo.dynamics.ensemble import Ensemble, TargetScale
from merpo.errors import MerpoError, StorageError
from merpo.runs import Checkpoints, RunFolder, from_json, read_config, read_metrics, to_json
from merpo.runs import checkpoint as checkpoint_module
from test_api_fit import TINY
from test_data_damage import apply, damages
from toys import filled, linear_info, linear_set

EACH = settings(max_examples=160, deadline=None, derandomize=True, database=None)
SEEN: Counter[str] = Counter()
NOTHING = TaskSet(linear_info(), ())


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch executed",))


JUNK = st.one_of(
    st.sampled_from(
        [None, True, False, "", "nan", "inf", "-inf", "a" * 40, [], {}, [[]], [1, "a"], {"a": {"b": []}}, 0, -1, 1, 2.5,
         2**31, 10**30, 10**400, -1.0, 1e308, 0.5, [0], [-3], [10**12], [4, 4], [float("nan")], float("nan"), "1e9"]
    ),
    st.integers(-10, 10_000), st.floats(), st.text(max_size=8), st.lists(st.integers(-2, 9), max_size=3),
)  # fmt: skip


def paths(tree, prefix=()):
    """Every key and index in nested tables and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [p for k, v in items for p in [(*prefix, k), *paths(v, (*prefix, k))]]


def edited(tree, where: float, how: str, junk):
    """The tree with one entry replaced, removed, doubled under another name, or renamed."""
    tree = copy.deepcopy(tree)
    found = paths(tree)
    *parents, last = found[int(where * len(found))]
    home = tree
    for key in parents:
        home = home[key]
    if how == "replace" or isinstance(home, list):
        home[last] = junk
    elif how == "remove":
        del home[last]
    else:
        home[f"{last}_{junk}"[:30]] = home.pop(last) if how == "rename" else junk
    return tree


edits = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add"]),
    JUNK,
)


def outcome(read, legal):
    """Read something malformed: a MerpoError with a sentence in it, or what `legal` accepts; nothing else."""
    try:
        found = read()
    except MerpoError as error:
        SEEN["refused" if len(str(error)) > 20 and "Traceback" not in str(error) else "unclear"] += 1
    else:
        assert legal(found)
        SEEN["legal"] += 1
    assert not SEEN["unclear"]
    assert not os.path.exists("executed")


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A working folder in which something executed would leave its mark."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("malformed"))
    yield
    os.chdir(before)


# ---- configurations


def sane(config) -> bool:
    """Every setting of its kind in a range one can compute with, and the whole equal to its own round trip."""
    if from_json(MerPOConfig, json.loads(json.dumps(to_json(config)))) != config:
        return False
    parts = [config, config.rac, config.dynamics]
    values = [(f.name, getattr(p, f.name)) for p in parts for f in fields(p) if not is_dataclass(getattr(p, f.name))]
    widths = [w for name, v in values if "hidden" in name for w in v]
    rates = [v for name, v in values if name.endswith("lr") or name == "learning_rate"]
    may_be_zero = ("context", "warmup", "meta_iterations", "pool_steps", "scratch_steps", "guard_steps", "full_log")
    counts = [v for name, v in values if type(v) is int and name not in may_be_zero]
    others = [v for name, v in values if name in may_be_zero]
    numbers = [v for _, v in values if type(v) in (int, float)]
    return (
        all(0 < w <= 2**16 for w in widths)
        and all(0 <= r < 1 for r in rates)
        and all(0 < c < 2**31 for c in counts)
        and all(type(c) is int and 0 <= c < 2**31 for c in others)
        and all(math.isfinite(v) for v in numbers)
    )


BASE = to_json(TINY)


@EACH
@given(edit=edits)
def edited_configurations(edit):
    with open("settings.json", "w") as f:
        json.dump(edited(BASE, *edit), f)
    outcome(lambda: read_settings(NOTHING, train_module.Path("settings.json")), sane)


@settings(EACH, max_examples=60)
@given(damage=damages())
def damaged_configurations(damage):
    with open("settings.json", "wb") as f:
        f.write(apply(json.dumps(BASE).encode(), damage))
    outcome(lambda: read_settings(NOTHING, train_module.Path("settings.json")), sane)


def test_configurations():
    SEEN.clear()
    edited_configurations()
    damaged_configurations()
    for text in ("[" * 100_000, "[]", "null", '{"rac": 3}', '{"format": 1, "config": []}', "1" * 5000):
        with open("settings.json", "w") as f:
            f.write(text)
        outcome(lambda: read_settings(NOTHING, train_module.Path("settings.json")), lambda c: False)
    assert SEEN["refused"] >= 120


def test_on_the_command_line_a_malformed_configuration_leaves_nothing(monkeypatch, capsys):
    monkeypatch.setenv("MERPO_DATA_DIR", "data")
    monkeypatch.setenv("MERPO_CACHE_DIR", "off")
    storage.save(linear_set(2), "my/set", "data")
    begun = []
    monkeypatch.setattr(train_module, "train", lambda *a: begun.append(a))
    refused = 0
    for i, junk in enumerate(["a", -1, [], {}, None, 10**400, 1.5, [[0]]]):
        content = edited(BASE, (i + 0.5) / 8, "replace", junk)
        with open("settings.json", "w") as f:
            json.dump(content, f)
        code = cli.main(["train", "my/set", "--config", "settings.json", "--out", "out"])
        error = capsys.readouterr().err
        assert code == (0 if begun else 2)
        assert bool(begun) or (error.startswith("error: ") and len(error.splitlines()) == 1)
        refused += not begun
        begun.clear()
        assert not os.path.exists("out")
    assert refused >= 6


# ---- checkpoints


def small_meta() -> merpo.Meta:
    """Two seeds' worth of what training leaves, its numbers drawn at random."""
    info = linear_info()

    def make(key):
        keys = jax.random.split(key, 2)
        models = jax.vmap(lambda k: Ensemble.init(k, 2, 1, TINY.dynamics))(keys)
        actor, critic = jax.vmap(lambda k: rac.networks(k, 2, 1, TINY.rac, TINY.context))(keys)
        context = jax.vmap(lambda _: Context.like(2, 1, TINY.context))(jnp.arange(2))
        out, obs = jnp.zeros(3, jnp.float32), jnp.zeros(2, jnp.float32)
        return Learned(models, actor, critic, context, TargetScale(out, out, obs, obs), Preparation.like(2, 1))

    return merpo.Meta(filled(make, 0), info, TINY, (0, 1))


META = small_meta()


def is_meta(found: merpo.Meta) -> bool:
    """What is learned unchanged, and a header that could be anybody's."""
    return bool(eqx.tree_equal(found.learned, META.learned)) and len(found.seeds) == 2 and found.info.obs_dim == 2


@pytest.fixture(scope="module")
def stored(place):
    META.save("meta.safetensors")
    with open("meta.safetensors", "rb") as f:
        return f.read()


@EACH
@given(damage=damages())
def damaged_checkpoints(stored, damage):
    with open("bad.safetensors", "wb") as f:
        f.write(apply(stored, damage))
    outcome(
        lambda: merpo.Meta.load("bad.safetensors"), lambda m: is_meta(m) and (m.info, m.seeds) == (META.info, (0, 1))
    )


def repacked(content: bytes, edit, inner: bool, seal: bool) -> bytes:
    """The safetensors file with an edited table of tensors, or an edited merpo header (checksums right if `seal`)."""
    length = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + length])
    header = json.loads(table["__metadata__"]["merpo"])
    if inner:
        header = edited(header, *edit)
        if seal and isinstance(header.get("meta"), dict) and isinstance(header.get("keys"), dict):
            try:
                header["meta_sha256"] = checkpoint_module._meta_digest(header["meta"], header["keys"])
            except ValueError:  # NaN
                del header["meta_sha256"]
        table["__metadata__"]["merpo"] = json.dumps(header)
    else:
        table = edited(table, *edit)
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@settings(EACH, max_examples=80)
@given(edit=edits, inner=st.booleans(), seal=st.booleans())
def edited_checkpoints(stored, edit, inner, seal):
    with open("bad.safetensors", "wb") as f:
        f.write(repacked(stored, edit, inner, seal))
    outcome(lambda: merpo.Meta.load("bad.safetensors"), is_meta)


def test_checkpoints(stored):
    SEEN.clear()
    damaged_checkpoints(stored)
    assert SEEN["refused"] >= 155  # all but a byte replaced by itself
    edited_checkpoints(stored)
    for content in (pickle.dumps(Bomb()), b"", b"\x80\x04.", save({"a": np.zeros(3)}), b"PK\x03\x04" + bytes(99)):
        with open("bad.safetensors", "wb") as f:
            f.write(content)
        for load in (merpo.Meta.load, merpo.PolicySet.load):
            outcome(lambda load=load: load("bad.safetensors"), lambda m: False)
    with pytest.raises(StorageError, match="expected 'merpo-policies'"):
        merpo.PolicySet.load("meta.safetensors")


# ---- the state of unfinished work, and the other files of a run folder


WORK = {"kind": "fit", "config": BASE, "seeds": [0], "data": "0" * 64}
TREE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.asarray(3, np.int32)}


def like(done):
    return {"w": np.zeros((done, 3), np.float32), "n": np.zeros((), np.int32)}


@settings(EACH, max_examples=100)
@given(edit=edits, damage=damages(), which=st.sampled_from(["work", "header", "table", "bytes"]))
def malformed_states(edit, damage, which):
    path = "state/work.json" if which == "work" else "state/slot.safetensors"
    with open(path, "rb") as f:
        whole = f.read()
    bad = apply(whole, damage)
    if which == "work":
        bad = json.dumps(edited(json.loads(whole), *edit)).encode() if damage[2] % 2 else bad
    elif which != "bytes":
        bad = repacked(whole, edit, which == "header", bool(damage[2] % 2))

    def read():
        with Checkpoints("state").of(WORK) as states:
            return states.load("slot", like)

    try:
        with open(path, "wb") as f:
            f.write(bad)
        outcome(read, lambda got: got[0] == 2 and all(np.array_equal(got[1][k], TREE[k]) for k in TREE))
        assert sorted(os.listdir("state")) == [".lock", "slot.safetensors", "work.json"]
    finally:
        with open(path, "wb") as f:
            f.write(whole)


@pytest.mark.filterwarnings("ignore::merpo.errors.VersionWarning")
def test_states():
    SEEN.clear()
    with Checkpoints("state").of(WORK) as states:
        states.save("slot", 2, TREE)
    malformed_states()
    assert SEEN["refused"] >= 70


def is_record(record: RunRecord) -> bool:
    return isinstance(record.data, DataRef) and all(isinstance(s, int) for s in record.seeds)


READERS = {
    "run.json": (lambda: read_record(train_module.Path("run")), is_record),
    "config.json": (lambda: read_config("run", MerPOConfig), sane),
    "metrics.jsonl": (lambda: read_metrics("run"), lambda rows: all(isinstance(r["step"], int) for r in rows)),
}


@EACH
@given(name=st.sampled_from(sorted(READERS)), edit=edits, damage=damages(), structured=st.booleans())
def malformed_run_files(name, edit, damage, structured):
    path = f"run/{name}"
    with open(path, "rb") as f:
        whole = f.read()
    bad = apply(whole, damage)
    if structured:
        bad = (
            json.dumps(edited(json.loads(whole.splitlines()[0] if name[0] == "m" else whole), *edit)) + "\n"
        ).encode()
    try:
        with open(path, "wb") as f:
            f.write(bad)
        outcome(*READERS[name])
    finally:
        with open(path, "wb") as f:
            f.write(whole)


def test_run_folders():
    SEEN.clear()
    with RunFolder.create("run", TINY) as run:
        run.log(10, loss=0.5, value=2.0)
        run.log(20, loss=math.nan)
    target = {"data": {"name": "a/b", "episodes": 1, "seed": 0}, "episodes": None, "tasks": ["t"], "methods": ["bc"]}
    record = RunRecord(DataRef("a/b", 2, 0), (0, 1), 3, {"train": 1.5}, target)
    record.save(train_module.Path("run"))
    assert read_record(train_module.Path("run")) == record
    malformed_run_files()
    assert SEEN["refused"] >= 70
