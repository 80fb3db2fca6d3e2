"""Exported policies act as the policies do, carry a card, and fall back where a certificate was refused."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import onnx
import onnxruntime
import pytest

import merpo
import toys
from merpo.data import LogSummary, Preparation
from merpo.deploy import writing
from merpo.errors import ConfigError, MerpoError, StorageError
from merpo.guarantee import Certificate
from merpo.runs import config_hash

ROOT = Path(__file__).resolve().parents[1]
REFUSED = Certificate("task-1", False, 0.95, None, -3.0, None, None, 2, 12, None, None, ("log too small",))


def policy(obs=3, act=2, size=0.8, low=None, high=None, **changes):
    rng = np.random.default_rng(5)
    info = replace(toys.linear_info(act), obs_dim=obs, action_low=low or (-0.5, 0.0), action_high=high or (0.5, 40.0))
    middle, half = np.asarray(info.action_low), np.asarray(info.action_high)
    middle, half = (middle + half) / 2, (half - middle) / 2
    f32 = np.float32
    preparation = Preparation(
        rng.normal(size=obs).astype(f32) * 50, rng.uniform(0.01, 30, obs).astype(f32), middle.astype(f32),
        half.astype(f32), np.asarray(0.1, f32),
    )  # fmt: skip
    actor = toys.actor(1, obs, act, (16, 16), size)
    return merpo.Policy(actor, preparation, info, "merpo/task-1", seed=3, config=merpo.MerPOConfig(), **changes)


@pytest.fixture(scope="module")
def plain():
    task = toys.linear_task("task-1", 4, 0, split="test", act=1)
    return policy(2, 1, low=(-2.0,), high=(2.0,), log=LogSummary.of(task, toys.linear_info())), task


def by_hand(p, obs):
    """The same policy in float64 NumPy: standardise, perceptron, two squashings, scale."""
    x = (obs.astype(np.float64) - p.preparation.obs_mean) / p.preparation.obs_std
    *hidden, last = p.actor.net.layers
    for layer in hidden:
        x = np.maximum(x @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias), 0)
    mean = (x @ np.asarray(last.weight, np.float64) + np.asarray(last.bias))[:, : p.info.act_dim]
    return p.preparation.action_mid + p.preparation.action_half * np.tanh(
        p.actor.mean_max * np.tanh(mean / p.actor.mean_max)
    )


def observations(p, n):
    rng = np.random.default_rng(n)
    return (p.preparation.obs_mean + 3 * p.preparation.obs_std * rng.normal(size=(n, p.info.obs_dim))).astype(
        np.float32
    )


@pytest.mark.parametrize("size", [0.1, 1.5])  # gentle, and saturated
def test_onnx_acts_as_the_policy(tmp_path, size):
    p = policy(size=size)
    path, *_ = p.export(tmp_path / "p.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape, taken.type) == ("observation", ["batch", 3], "tensor(float)")
    assert (given.name, given.shape, given.type) == ("action", ["batch", 2], "tensor(float)")
    half = p.preparation.action_half
    for n in (1, 7, 300):
        obs = observations(p, n)
        (found,) = session.run(None, {"observation": obs})
        assert found.dtype == np.float32
        np.testing.assert_allclose(found / half, p(obs) / half, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found / half, by_hand(p, obs) / half, rtol=0, atol=1e-4)
    assert np.ptp(found, axis=0).min() > 0.01
    assert onnx.load(path).metadata_props[0].value == "merpo/task-1"


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_every_activation_has_a_graph(tmp_path, activation):
    p = policy()
    net = toys.mlp(2, 3, 4, (16,), activation=activation)
    p = replace(p, actor=eqx.tree_at(lambda a: a.net, p.actor, net))
    path, *_ = p.export(tmp_path / "p.onnx")
    obs = observations(p, 50)
    (found,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"observation": obs})
    np.testing.assert_allclose(found, p(obs), rtol=0, atol=1e-5 * 20)


def test_stablehlo_acts_as_the_policy_at_any_batch_size(tmp_path):
    p = policy()
    path, *_ = p.export(tmp_path / "p.stablehlo")
    loaded = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(loaded.platforms) >= {"cpu", "cuda", "tpu"}
    assert "stablehlo" in loaded.mlir_module()
    for n in (1, 33):
        obs = observations(p, n)
        half = p.preparation.action_half
        np.testing.assert_allclose(np.asarray(loaded.call(obs)) / half, p(obs) / half, rtol=0, atol=1e-5)


def test_the_card_says_what_it_is(plain, tmp_path):
    p, task = plain
    path, text, page = p.export(tmp_path / "p.bin", format="onnx", about={"run": {"data_set": "my/set"}})
    made = json.loads(text.read_text())
    assert made["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert made["method"]["config_hash"] == config_hash(p.config)
    assert made["data"]["log"]["steps"] == len(task)
    seen = np.asarray(made["interface"]["observations_seen"])
    np.testing.assert_allclose(seen, np.stack([task.transitions.obs.min(0), task.transitions.obs.max(0)], 1), rtol=1e-6)
    assert made["interface"]["action_high"] == [2.0]
    assert made["certificate"] is None
    assert made["run"] == {"data_set": "my/set"}
    assert made["versions"]["jax"] == jax.__version__
    assert made["checked"]["largest_difference"] <= 1e-5
    shown = page.read_text()
    assert "No certificate was asked for" in shown
    assert f"{seen[1, 0]:.4g}" in shown


def test_a_refused_policy_is_not_exported_unless_one_insists(plain, tmp_path):
    p = replace(plain[0], certificate=REFUSED)
    with pytest.raises(ConfigError, match=r"log too small.*insist"):
        p.export(tmp_path / "p.onnx")
    assert not list(tmp_path.iterdir())
    clone = replace(p, stands_in=True)
    _, text, _ = clone.export(tmp_path / "clone.onnx")
    made = json.loads(text.read_text())
    assert made["safety"].startswith("The adapted policy was refused")
    assert made["method"]["description"].startswith("behaviour cloning")
    _, text, page = p.export(tmp_path / "p.onnx", insist=True)
    assert "do not deploy" in json.loads(text.read_text())["safety"]
    assert "do not deploy" in page.read_text()


def test_a_file_that_acts_otherwise_is_not_written(plain, tmp_path, monkeypatch):
    original = writing.onnx_bytes
    shifted = replace(plain[0].preparation, obs_mean=plain[0].preparation.obs_mean + 0.01)
    monkeypatch.setattr(writing, "onnx_bytes", lambda actor, _, props: original(actor, shifted, props))
    with pytest.raises(MerpoError, match="differs from the policy"):
        plain[0].export(tmp_path / "p.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said(plain, tmp_path):
    with pytest.raises(ConfigError, match=r"p\.pt.*onnx or stablehlo"):
        plain[0].export(tmp_path / "p.pt")
    with pytest.raises(ConfigError, match="format='torch'"):
        writing.export(plain[0], tmp_path / "p.onnx", "torch")
    with pytest.raises(StorageError, match="folder does not exist"):
        plain[0].export(tmp_path / "nowhere" / "p.onnx")


def test_the_example_runs_without_jax(tmp_path):
    """A policy for Gymnasium's pendulum, in a process that must not load JAX."""
    path, *_ = policy(3, 1, low=(-2.0,), high=(2.0,)).export(tmp_path / "p.onnx")
    example = ROOT / "examples" / "run_exported.py"
    code = f"""
import runpy, sys
sys.argv = ["run_exported.py", {str(path)!r}, "Pendulum-v1", "2"]
runpy.run_path({str(example)!r}, run_name="__main__")
print("jax" in sys.modules, "merpo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [x.split(":")[0] for x in lines[:2]] == ["episode 0", "episode 1"]
    assert -2000 < float(lines[0].split()[-1]) < 0
    assert lines[2] == "False False"
