"""Collection: complete task sets, the same bytes for the same arguments, qualities that are what they say."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from merpo.errors import ConfigError, StorageError, UnknownNameError
from merpo.tasks import behaviour_act, families, generate, get_family, pedigree, reference_returns, shipped
from merpo.tasks.behaviour import Shipped, has_weights
from merpo.tasks.policies import load_policy

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")

DIGEST = """
import hashlib, sys
from merpo.tasks import generate
def digest(data):
    h = hashlib.sha256()
    for task in data:
        for f in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
            h.update(getattr(task.transitions, f).tobytes())
    return h.hexdigest()
"""


def digest(data):
    scope = {}
    exec(DIGEST, scope)
    return scope["digest"](data)


def test_the_same_bytes_in_another_process():
    calls = [("point-robot-goal", "mixed", 9, 5, 3), ("half-cheetah-fwd-back", "mixed", 8, 5, 1)]
    calls += [(name, "medium", 1, 5, 1) for name in ("walker-2d-params", "hopper-params")]
    calls += [("ant-fwd-back", quality, 2, 5, 1) for quality in ("medium", "expert", "mixed")]
    code = DIGEST + "".join(f"print(digest(generate{c}))\n" for c in calls)
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    here = [digest(generate(*c)) for c in calls]
    assert done.stdout.split() == here
    assert digest(generate("point-robot-goal", "mixed", 9, 6, 3)) != here[0]


NAMES = [
    "point-robot-wind",
    "point-robot-wind-unscaled",
    "point-robot-goal",
    "sparse-point-robot",
    "half-cheetah-fwd-back",
    "walker-2d-params",
]
FEW_LOGGED = ["hopper-params", "half-cheetah-vel", "ant-fwd-back", "ant-dir", "ant-goal"]
"""Families whose levels are looked at on a few tasks, to spare time."""


@pytest.mark.parametrize("name", [*NAMES, "hopper-params", "ant-fwd-back"])
def test_a_task_set_is_complete(name):
    family = get_family(name)
    data = generate(family, "medium", episodes=2, seed=3, test_episodes=1)
    plain = family.info("medium", 3)
    assert data.info == replace(plain, versions=plain.versions + pedigree(name))
    assert (data.info.family, data.info.quality, data.info.seed) == (name, "medium", 3)
    assert len(data.train) == len(family.train_ids)
    assert len(data.test) == len(family.test_ids)
    assert len({t.name for t in data}) == len(data)
    for task in data:
        episodes = 2 if task.split == "train" else 1
        n = int(task.episode_start[-1])
        assert task.episodes == episodes
        x = task.transitions
        assert x.obs.shape == x.next_obs.shape == (n, family.obs_dim)
        assert x.action.shape == (n, family.act_dim)
        assert x.obs.dtype == x.action.dtype == x.reward.dtype == np.float32
        assert x.terminated.dtype == x.truncated.dtype == bool
        # every episode ends once: by the task, or by the time limit
        np.testing.assert_array_equal(np.flatnonzero(x.truncated | x.terminated) + 1, task.episode_start[1:])
        lengths = np.diff(task.episode_start)
        np.testing.assert_array_equal(x.truncated[task.episode_start[1:] - 1], lengths == family.horizon)
        if not family.healthy:
            np.testing.assert_array_equal(lengths, family.horizon)
        for bound in family.healthy:
            inside = (x.next_obs[:, bound.index] > bound.low) & (x.next_obs[:, bound.index] < bound.high)
            assert inside[~x.terminated].all()
        assert np.abs(x.action).max() <= 1.0
        assert set(task.reference) == {"random", "expert"}
        assert task.reference["expert"] > task.reference["random"]
        for value in task.parameters.values():
            assert type(value) in (float, list)


def test_splits_of_a_two_task_family_are_logged_apart():
    data = generate("half-cheetah-fwd-back", "random", episodes=1, seed=0)
    assert [t.name for t in data] == ["task-000-train", "task-001-train", "task-000-test", "task-001-test"]
    train, test = data.train[0].transitions, data.test[0].transitions
    assert not np.array_equal(train.obs[0], test.obs[0])
    assert not np.array_equal(train.action, test.action)


def score(data):
    """Normalised return, 0 random and 1 expert, per task."""
    mean = np.array([t.returns().mean() for t in data])
    low, high = (np.array([t.reference[k] for t in data]) for k in ("random", "expert"))
    return (mean - low) / (high - low)


@pytest.mark.parametrize("name", NAMES)
def test_qualities_are_what_they_say(name):
    bands = {"random": (-0.06, 0.06), "medium": (0.3, 0.62), "mixed": (0.35, 0.75), "expert": (0.9, 1.02)}
    for quality, (low, high) in bands.items():
        few = name == "walker-2d-params" and quality != "mixed"  # 25 bodies, and mixed deals 8 levels in turn
        data = generate(name, quality, episodes=2 if few else 8, seed=1)
        assert low < score(data).mean() < high, quality
        if quality in ("medium", "mixed"):  # stochastic, with episodes that differ
            assert min(t.returns().std() for t in data) > 1e-2


@pytest.mark.parametrize("name", FEW_LOGGED)
def test_levels_on_a_few_tasks(name):
    family = get_family(name)
    ids = tuple(sorted({0, family.num_tasks // 2, family.num_tasks - 1}))
    random, expert = (np.asarray(r)[list(ids)] for r in reference_returns(family))
    scores = {}
    for quality in ("medium", "mixed", "expert"):
        act = behaviour_act(family, quality, ids, 8, 2)
        returns = family.rollout(act, ids, 8, 2).returns
        scores[quality] = float(((returns.mean(1) - random) / (expert - random)).mean())
        assert returns.std(1).min() > 1e-2
    assert 0.2 < scores["medium"] < 0.7
    assert 0.3 < scores["mixed"] < 0.95
    assert 0.8 < scores["expert"] < 1.15
    assert scores["medium"] < scores["expert"] > scores["mixed"]


def test_a_clone_of_medium_point_robots_is_no_expert():
    """Fit actions on (1, s) per task by least squares: the clone stays well below the expert on every task."""
    for name in ("point-robot-wind", "point-robot-goal"):
        family = get_family(name)
        data = generate(name, "medium", episodes=50, seed=0).test
        x = [np.c_[np.ones(len(t)), t.transitions.obs] for t in data]
        fits = np.stack([np.linalg.lstsq(a, t.transitions.action, rcond=None)[0] for a, t in zip(x, data, strict=True)])

        def clone(obs, step, fits=fits):
            return np.einsum("tei,tio->teo", np.concatenate([np.ones_like(obs[..., :1]), obs], -1), fits)

        mean = family.rollout(clone, family.test_ids, 1).returns[:, 0]
        low, high = (np.array([t.reference[k] for t in data]) for k in ("random", "expert"))
        share = (mean - low) / (high - low)
        assert share.mean() < 0.85
        assert share.mean() > score(data).mean()


def test_mixed_deals_levels_in_turn():
    """Episodes e and e + 8 share a level: level 0 is poor, level 7 good, whatever the number of episodes."""
    for name in ("point-robot-goal", "half-cheetah-fwd-back"):
        count = 8
        data = generate(name, "mixed", episodes=2 * count, seed=0)
        returns = np.mean([t.returns() for t in data], axis=0).reshape(2, count).mean(axis=0)
        assert returns[-1] > returns[count // 2] > returns[0]


@pytest.mark.parametrize("name", [n for n in families() if has_weights(n)])
def test_shipped_checkpoints_are_whole(name):
    kept, tasks = shipped(name), get_family(name).num_tasks
    assert isinstance(kept, Shipped)
    files = [c["file"] for c in kept.checkpoints]
    assert sorted(files) == sorted(p.name for p in kept.folder.glob("*.safetensors"))
    updates = [c["updates"] for c in kept.checkpoints]
    assert updates == sorted(updates)
    assert [len(row) for row in kept.qualities["mixed"]] == [8] * tasks
    assert sum(p.stat().st_size for p in kept.folder.iterdir()) < 3e6
    expert = kept.checkpoints[-1]
    assert kept.qualities["expert"] == [[len(files) - 1]] * tasks
    assert expert["mean_return"] == max(c["mean_return"] for c in kept.checkpoints)
    medium = np.array([kept.checkpoints[row]["returns"][t] for t, (row,) in enumerate(kept.qualities["medium"])])
    random = np.asarray(kept.reference["random"] if kept.reference else [0.0] * tasks)
    share = (medium - random) / (expert["returns"] - random)
    assert 0.35 < np.mean(share) < 0.55
    if tasks == 2:
        assert 0.35 < min(share) < max(share) < 0.55
    else:  # stored, on other starts than the ones that chose the checkpoints
        assert np.mean(kept.reference["expert"]) == pytest.approx(expert["mean_return"], rel=0.1)


def test_all_weights_are_small():
    folder = shipped("walker-2d-params").folder.parent
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 1e7


def test_unknown_quality_and_bad_counts():
    with pytest.raises(UnknownNameError, match="Did you mean 'medium'"):
        generate("point-robot-wind", "medum")
    with pytest.raises(UnknownNameError, match="expected one of random, medium, expert, mixed"):
        behaviour_act(get_family("point-robot-wind"), "superb", (0,), 1, 0)
    with pytest.raises(ConfigError, match="episodes=0"):
        generate("point-robot-wind", "medium", episodes=0)
    with pytest.raises(ConfigError, match="test_episodes=-1"):
        generate("point-robot-wind", "medium", test_episodes=-1)
    with pytest.raises(ConfigError, match="seed=-1"):
        generate("point-robot-wind", "medium", seed=-1)


def test_point_robots_need_no_simulator():
    """Without gymnasium and mujoco the room imports, point robots are collected, and the cheetah says what it lacks."""
    code = """
import sys
from dataclasses import replace
sys.modules["gymnasium"] = sys.modules["mujoco"] = None
import merpo.tasks
print(len(merpo.tasks.generate("point-robot-wind", "medium", episodes=1)))
try:
    merpo.tasks.generate("half-cheetah-fwd-back", "random", episodes=1)
except merpo.errors.ConfigError as error:
    print(error)
"""
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.startswith("50\n")
    assert "pip install 'merpo[tasks]'" in done.stdout


def test_a_truncated_or_foreign_weights_file_is_refused(tmp_path):
    kept = shipped("half-cheetah-fwd-back")
    whole = (kept.folder / kept.checkpoints[-1]["file"]).read_bytes()
    broken = tmp_path / "ckpt.safetensors"
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match="expected a readable safetensors file"):
        load_policy(broken)
    broken.write_text("hello")
    with pytest.raises(StorageError, match="Check the path"):
        load_policy(broken)
    with pytest.raises(StorageError):
        load_policy(tmp_path / "missing.safetensors")
