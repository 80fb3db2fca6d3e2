from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from merpo.errors import ConfigError, StorageError
from merpo.networks import MLP
from merpo.runs import checkpoint as module
from merpo.runs import load_checkpoint, read_meta, save_checkpoint


@dataclass(frozen=True)
class Config:
    hidden: tuple[int, ...] = (8, 8)
    lr: float = 1e-3


class State(eqx.Module):
    net: MLP
    key: jax.Array
    keys: jax.Array
    step: jax.Array
    half: jax.Array
    mask: jax.Array
    empty: jax.Array
    host: np.ndarray
    scalar: np.float64
    count: int
    rate: float
    on: bool
    nothing: None
    function: Callable


def make(key, hidden=(8, 8)) -> State:
    return State(
        net=MLP(3, 2, hidden, key),
        key=key,
        keys=jax.random.split(key, 3),
        step=jnp.asarray(7, jnp.int32),
        half=jnp.linspace(0, 1, 5).astype(jnp.bfloat16),
        mask=jnp.asarray([True, False]),
        empty=jnp.zeros((0, 3), jnp.float32),
        host=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        scalar=np.float64(0.1),
        count=3,
        rate=0.25,
        on=True,
        nothing=None,
        function=jnp.tanh,
    )


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if callable(x):
            assert x is y
            continue
        assert type(x) is type(y)
        if hasattr(x, "dtype"):
            assert x.dtype == y.dtype
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture
def state():
    return make(jax.random.key(0))


@pytest.fixture
def path(tmp_path, state):
    where = tmp_path / "checkpoint.safetensors"
    save_checkpoint(where, state, {"content": "a test", "step": 7}, Config())
    return where


def test_round_trip_is_bit_exact(path, state):
    tree, meta = load_checkpoint(path, make(jax.random.key(1)), Config())
    same(tree, state)
    assert meta["content"] == "a test"
    assert meta["config"] == {"hidden": [8, 8], "lr": 1e-3}
    assert read_meta(path) == meta


def test_like_may_be_shapes_only(tmp_path, state):
    def make_device(key):  # float64 host leaves would be float32 in an abstract evaluation
        return eqx.tree_at(lambda s: (s.host, s.scalar), make(key), (None, None))

    path = tmp_path / "c"
    save_checkpoint(path, make_device(jax.random.key(0)), {})
    like = eqx.filter_eval_shape(make_device, jax.random.key(1))
    tree, _ = load_checkpoint(path, like)
    arrays = eqx.filter(tree, eqx.is_array)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(arrays.net))
    same(tree.net, state.net)
    same(tree.keys, state.keys)
    assert tree.half.dtype == jnp.bfloat16
    assert tree.function is jnp.tanh


def test_other_key_implementations(tmp_path):
    key = jax.random.key(3, impl="rbg")
    save_checkpoint(tmp_path / "k", key, {})
    again, _ = load_checkpoint(tmp_path / "k", key)
    assert jax.random.key_impl(again) == "rbg"
    same(again, key)


def test_any_safetensors_reader_opens_it(path, state):
    with safe_open(path, framework="numpy") as f:
        assert "net.layers.0.weight" in f.keys()  # noqa: SIM118
        np.testing.assert_array_equal(f.get_tensor("net.layers.0.weight"), np.asarray(state.net.layers[0].weight))
        assert json.loads(f.metadata()["merpo"])["format"] == "merpo-checkpoint"


def test_same_state_same_bytes(path, state, tmp_path):
    save_checkpoint(tmp_path / "again", state, {"content": "a test", "step": 7}, Config())
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_another_configuration_names_leaves_and_settings(path):
    with pytest.raises(
        ConfigError,
        match=r"belongs to another configuration: .*net.layers.0.weight: stored "
        r"float32\[3,8\], expected float32\[3,16\]",
    ):
        load_checkpoint(path, make(jax.random.key(0), (16, 8)))
    with pytest.raises(ConfigError, match=r"hidden: \[8, 8\] -> \[16, 8\]"):
        load_checkpoint(path, make(jax.random.key(0), (16, 8)), Config((16, 8)))
    with pytest.raises(ConfigError, match=r"net.layers.2.weight: stored float32\[8,2\], expected float32\[8,8\]"):
        load_checkpoint(path, make(jax.random.key(0), (8, 8, 8)))
    with pytest.raises(ConfigError, match=r"stored .*, expected nothing"):
        load_checkpoint(path, {})
    with pytest.raises(ConfigError, match=r"key: stored key\[\], expected uint32\[2\]"):
        load_checkpoint(path, eqx.tree_at(lambda s: s.key, make(jax.random.key(0)), jnp.zeros(2, jnp.uint32)))


def test_settings_newer_than_the_file_have_their_defaults(tmp_path, state):
    """A file written before a setting existed loads with that setting's default, and with no other value."""

    @dataclass(frozen=True)
    class Before:
        hidden: tuple[int, ...] = (8, 8)

    @dataclass(frozen=True)
    class After:
        hidden: tuple[int, ...] = (8, 8)
        pushdown: str = "policy"

    Before.__name__ = After.__name__ = "Settings"
    where = tmp_path / "old.safetensors"
    save_checkpoint(where, state, {}, Before())
    same(load_checkpoint(where, state, After())[0], state)
    with pytest.raises(ConfigError, match=r"pushdown: \(absent\) -> 'logsumexp'"):
        load_checkpoint(where, state, After(pushdown="logsumexp"))
    with pytest.raises(ConfigError, match=r"hidden: \[8, 8\] -> \[4\]"):
        load_checkpoint(where, state, After((4,)))


def test_every_cut_is_found(path, state):
    whole = path.read_bytes()
    for cut in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(StorageError, match=r"truncated|damaged"):
            load_checkpoint(path, state)
        with pytest.raises(StorageError, match="truncated"):
            read_meta(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(StorageError, match="truncated"):
        read_meta(path)


def test_flipped_bits_are_found(path, state):
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(StorageError, match="checksum"):
        load_checkpoint(path, state)


class Bomb:
    def __reduce__(self):
        return (os.system, ("echo executed > bomb",))


def test_foreign_files_are_refused_and_never_executed(tmp_path, state, monkeypatch):
    from safetensors.numpy import save_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pickle").write_bytes(pickle.dumps(Bomb()))
    np.save(tmp_path / "array.npy", np.array([Bomb()], object), allow_pickle=True)
    save_file({"a": np.zeros(3)}, tmp_path / "plain.safetensors")
    (tmp_path / "list").write_bytes((2).to_bytes(8, "little") + b"[]")
    (tmp_path / "huge").write_bytes((2**63).to_bytes(8, "little") + b"{}")
    for name in ["pickle", "array.npy", "plain.safetensors", "list", "huge"]:
        with pytest.raises(StorageError, match="not a whole merpo checkpoint"):
            load_checkpoint(tmp_path / name, state)
    assert not (tmp_path / "bomb").exists()
    with pytest.raises(StorageError, match="does not exist"):
        load_checkpoint(tmp_path / "missing", state)
    with pytest.raises(StorageError, match="folder"):
        load_checkpoint(tmp_path, state)


def test_a_newer_format_says_so(tmp_path, state, monkeypatch):
    monkeypatch.setattr(module, "FORMAT_VERSION", 2)
    save_checkpoint(tmp_path / "c", state, {})
    monkeypatch.undo()
    with pytest.raises(StorageError, match="Update merpo"):
        read_meta(tmp_path / "c")


def test_bad_trees_and_metas(tmp_path, state):
    with pytest.raises(ConfigError, match="JSON"):
        save_checkpoint(tmp_path / "c", state, {"a": object()})
    with pytest.raises(ConfigError, match=r"two leaves named 'a\.b'"):
        save_checkpoint(tmp_path / "c", {"a": {"b": 1}, "a.b": 2}, {})
    with pytest.raises(ConfigError, match="complex"):
        save_checkpoint(tmp_path / "c", {"a": np.zeros(2, np.complex128)}, {})
    with pytest.raises(ConfigError, match="no values"):
        save_checkpoint(tmp_path / "c", jax.ShapeDtypeStruct((2,), jnp.float32), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(path, state, monkeypatch, call):
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="disk is full"):
        save_checkpoint(path, state, {"step": 8})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_real_size_limit_leaves_the_old_file(tmp_path):
    code = (
        "import resource, sys, numpy as np\nfrom merpo.runs import save_checkpoint\n"
        "from merpo.errors import StorageError\n"
        "p = sys.argv[1]\nsave_checkpoint(p, np.zeros(10), {})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    save_checkpoint(p, np.zeros(10000), {})\n"
        "except StorageError as e:\n    print('refused', e)\n"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path / "c"], capture_output=True, text=True, check=True)
    assert "refused" in out.stdout
    assert "damaged" in out.stdout
    tree, _ = load_checkpoint(tmp_path / "c", np.ones(10))
    np.testing.assert_array_equal(tree, np.zeros(10))
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    code = (
        "import os, signal, sys, numpy as np\nfrom merpo.runs import save_checkpoint\n"
        "p = sys.argv[1]\nsave_checkpoint(p, np.zeros(10), {})\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "save_checkpoint(p, np.ones(10), {})\n"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path / "c"], capture_output=True)
    assert out.returncode == -9
    tree, _ = load_checkpoint(tmp_path / "c", np.ones(10))
    np.testing.assert_array_equal(tree, np.zeros(10))
