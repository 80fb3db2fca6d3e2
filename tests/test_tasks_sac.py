"""The privileged trainer: its replay against a slow reference, its losses by hand, and a small real run."""

import itertools
import json
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from merpo.errors import ConfigError, StorageError
from merpo.tasks import SACConfig, get_family, own_agents, sac, select_checkpoints, shipped, train_behaviour
from merpo.tasks.behaviour import reference_returns, shares, spread
from merpo.tasks.policies import load_policy, save_policy

GOAL = get_family("point-robot-goal")


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """These programs run for a second and take longer to compile: leave out the optimisations."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def blocks(config, count, rng):
    """Synthetic experience whose numbers tell where they come from: obs = [time, env]."""
    time = 0
    for _ in range(count):
        t, e = np.meshgrid(np.arange(time, time + config.env_steps), np.arange(config.envs), indexing="ij")
        obs = np.stack([t, e], -1).astype(np.float32)
        yield {
            "obs": obs,
            "action": rng.uniform(-1, 1, (*t.shape, 2)).astype(np.float32),
            "next_obs": obs + np.float32([1, 0]),
            "extra": np.zeros((*t.shape, 0), np.float32),
            "terminated": (t % 7 == 6) & (e == 1),
            "last": (t % 7 == 6),
            "task": (e % 3).astype(np.int32),
        }
        time += config.env_steps


def jitted_sample(config, reward, scale, relabel, tasks, replay, seed):
    draw = jax.jit(partial(sac.sample, config, reward, scale, relabel))
    batch = draw(tasks, jnp.ones(2), replay, jax.random.key(seed))
    return jax.tree.map(np.asarray, batch)


def test_windows_against_a_slow_reference():
    """n-step sums, bootstrapped observations and discounts, after the ring has wrapped round."""
    config = SACConfig(batch=256, n_step=3, envs=4, env_steps=5, slots=15, warmup=5, gamma=0.8)
    rng = np.random.default_rng(0)
    replay = sac.init_replay(config, 2, 2, 0)
    log = {}
    for rows in blocks(config, 4, rng):
        for t in range(config.env_steps):
            for e in range(config.envs):
                log[int(rows["obs"][t, e, 0]), e] = {k: v[t, e] for k, v in rows.items()}
        replay = sac.insert(replay, {k: jnp.asarray(v) for k, v in rows.items()})
    assert (int(replay.head), int(replay.filled)) == (5, 15)
    tasks = jnp.asarray([[1.0], [2.0], [3.0]], jnp.float32)

    def reward(vector, action, next_obs, extra):
        return vector[..., 0] * action[..., 0] + next_obs[..., 0]

    batch = jitted_sample(config, reward, 0.5, False, tasks, replay, 1)
    seen = set()
    for i in range(config.batch):
        t, e = (int(v) for v in batch.x[i, :2])
        seen.add(t)
        total, weight, k = 0.0, 1.0, 0
        for k in range(3):
            row = log[t + k, e]
            total += weight * ((1 + e % 3) * row["action"][0] + row["next_obs"][0])
            weight *= 0.8
            if row["last"]:
                break
        assert float(batch.x[i, 2]) == 1 + e % 3
        np.testing.assert_allclose(batch.action[i], log[t, e]["action"])
        assert float(batch.reward[i]) == pytest.approx(0.5 * total, rel=1e-5)
        np.testing.assert_array_equal(batch.next_x[i, :2], log[t + k, e]["next_obs"])
        assert float(batch.discount[i]) == pytest.approx(0.0 if row["terminated"] else weight, rel=1e-6)
    assert seen == set(range(5, 18))  # the oldest block is overwritten; no window reaches past the newest step


def test_half_of_a_batch_is_relabelled():
    config = SACConfig(batch=400, envs=4, env_steps=5, slots=5, warmup=5)
    rows = next(blocks(config, 1, np.random.default_rng(0)))
    replay = sac.insert(sac.init_replay(config, 2, 2, 0), {k: jnp.asarray(v) for k, v in rows.items()})
    tasks = jnp.asarray([[1.0], [2.0], [3.0]], jnp.float32)

    def reward(vector, action, next_obs, extra):
        return vector[..., 0]

    batch = jitted_sample(config, reward, 1.0, True, tasks, replay, 0)
    own = np.asarray(batch.x[:, 1]).astype(int) % 3 + 1
    vector = np.asarray(batch.x[:, 2])
    np.testing.assert_array_equal(batch.reward, vector)
    np.testing.assert_array_equal(vector, batch.next_x[:, 2])
    np.testing.assert_array_equal(vector[200:], own[200:])
    assert 0.2 < (vector[:200] == own[:200]).mean() < 0.5  # a third by chance


def test_critic_loss_by_hand(key):
    config = SACConfig(hidden=(8,))
    state = eqx.filter_jit(sac.init)(config, 3, 2, 100, key)
    x, u = jnp.ones((4, 3)) * 0.3, jnp.full((4, 2), 0.2)
    batch = sac.Batch(x, u, jnp.arange(4.0), x + 0.1, jnp.asarray([0.0, 0.9, 0.9, 0.5]))
    alpha = jnp.float32(0.3)
    loss, _ = jax.jit(sac.critic_loss)(state.critic, state.target, state.actor, alpha, batch, key)
    dist = state.actor(batch.next_x)
    pre = dist.sample_pre(key)
    soft = jnp.min(state.target(batch.next_x, jnp.tanh(pre)), axis=0) - 0.3 * dist.log_prob_pre(pre)
    goal = np.asarray(batch.reward) + np.asarray(batch.discount) * np.asarray(soft)
    q = np.asarray(state.critic(batch.x, batch.action))
    assert float(loss) == pytest.approx(((q - goal) ** 2).mean(), rel=1e-5)


SMALL = SACConfig(
    hidden=(64, 64), batch=64, gamma=0.9, lr=1e-3, envs=40, env_steps=20, updates=100, slots=400, warmup=20
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small but real run on Point-Robot-Goal: 100 tasks, one agent."""
    folder = tmp_path_factory.mktemp("behaviour")
    lines = []
    records = train_behaviour(GOAL, folder, 1200, 0, SMALL, every=100, progress=lines.append)
    return folder, records, lines


def test_a_small_run_improves_on_random(run):
    folder, records, lines = run
    random, expert = (np.asarray(r) for r in reference_returns(GOAL))
    share = (np.asarray(records[-1]["returns"]) - random) / (expert - random)
    assert share.mean() > 0.75
    assert records[0]["mean_return"] < records[-1]["mean_return"]
    assert len(records) == len(lines) == 12
    assert records[-1]["updates"] == 1200
    assert records[-1]["env_steps"] == 13 * 800
    assert {"updates", "returns", "speed", "critic_loss", "q", "alpha", "log_prob"} <= set(lines[-1])
    assert not list(folder.glob("*.part"))


def test_a_checkpoint_is_the_policy_that_was_scored(run):
    from merpo.tasks.trainer import EVAL_EPISODES, EVAL_SEED, deterministic_returns

    folder, records, _ = run
    stem = folder / f"ckpt-{records[5]['updates']:09d}"
    record = json.loads(stem.with_suffix(".json").read_text())
    assert record == json.loads(json.dumps(records[5]))
    policy = load_policy(stem.with_suffix(".safetensors"))
    np.testing.assert_allclose(
        deterministic_returns(GOAL, policy, EVAL_EPISODES, EVAL_SEED), record["returns"], rtol=1e-5
    )


def test_resuming_continues(run, tmp_path):
    folder, records, _ = run
    (tmp_path / "learner.safetensors").write_bytes((folder / "learner.safetensors").read_bytes())
    more = train_behaviour(GOAL, tmp_path, 1400, 0, SMALL, every=100, resume=True)
    assert [r["updates"] for r in more] == [1300, 1400]
    assert more[0]["resumed_at"] == 1200
    # counted on from before: one block per chunk, and another warm-up to refill the ring
    assert more[-1]["env_steps"] == records[-1]["env_steps"] + 3 * 800
    assert more[-1]["seconds"] > records[-1]["seconds"]
    assert more[-1]["mean_return"] > records[3]["mean_return"]
    other = SACConfig(**{**SMALL.__dict__, "hidden": (32, 32)})
    with pytest.raises(StorageError, match="the configuration it was written with"):
        train_behaviour(GOAL, tmp_path, 1400, 0, other, resume=True)


def test_a_run_on_one_task_is_that_tasks_and_ships_nothing(tmp_path):
    records = train_behaviour(GOAL, tmp_path, 200, 0, SMALL, every=100, tasks=[7])
    random, expert = (np.asarray(r)[7] for r in reference_returns(GOAL))
    assert records[-1]["tasks"] == [7]
    assert len(records[-1]["returns"]) == 1
    assert (records[-1]["returns"][0] - random) / (expert - random) > 0.5
    with pytest.raises(ConfigError, match="on all 100 tasks"):
        select_checkpoints(tmp_path, tmp_path / "weights")
    for wrong in ([], [3, 3], [100], [-1]):
        with pytest.raises(ConfigError, match="different ids"):
            train_behaviour(GOAL, tmp_path / "none", 200, tasks=wrong)
    assert not (tmp_path / "none").exists()


def test_own_agents_are_compared_on_the_same_starts(tmp_path):
    from merpo.report.own_agents import commands, own_markdown

    kept = shipped("hopper-params")
    best = kept.qualities["expert"][0][0]
    one = tmp_path / "one"
    one.mkdir()
    save_policy(one / "ckpt-000000640.safetensors", kept.policy(best))
    record = {
        "family": "hopper-params", "tasks": [20], "updates": 640, "env_steps": 800, "returns": [1.0], "mean_return": 1.0,
        "seconds": 2.0, "seed": 3, "asked": 900, "every": 640,
    }  # fmt: skip
    (one / "ckpt-000000640.json").write_text(json.dumps(record))
    (row,) = own_agents([one], episodes=4)
    assert row["task"] == 20
    assert row["own"] == row["expert"]
    assert len(row["own"]) == 4
    stored = {"runs": [row | {"own": [x + 50.0 for x in row["own"]]}]}
    assert commands(stored) == [
        "merpo behaviour train hopper-params --tasks 20 --out runs/hopper-params-20 --updates 900 --every 640 --seed 3"
    ]
    assert "| 50 [50, 50] |" in own_markdown(stored)
    (one / "ckpt-000000640.json").write_text(json.dumps({k: v for k, v in record.items() if k != "tasks"}))
    with pytest.raises(ConfigError, match="train --tasks"):
        own_agents([one])


def test_selection_writes_weights_and_index(run, tmp_path):
    folder, records, _ = run
    (tmp_path / "ckpt-000000007.safetensors").write_bytes(b"left over from an earlier selection")
    chosen = select_checkpoints(folder, tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["qualities"] == chosen
    assert index["reference"]["random"] == list(reference_returns(GOAL)[0])
    np.testing.assert_allclose(
        index["reference"]["expert"], max(records, key=lambda r: r["mean_return"])["returns"], rtol=2e-3
    )  # of the policy as it is stored, in 16 bits
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {c["file"] for c in index["checkpoints"]}
    best = max(records, key=lambda r: r["mean_return"])
    expert = index["checkpoints"][chosen["expert"][3][0]]
    assert expert["file"] == f"ckpt-{best['updates']:09d}.safetensors"
    assert all(row[-1] == chosen["expert"][0][0] and len(row) == 8 for row in chosen["mixed"])
    with pytest.raises(StorageError, match="expected ckpt-"):
        select_checkpoints(tmp_path / "nowhere", tmp_path)


def test_shares_lie_between_uniform_actions_and_the_last():
    """Costs (negative returns) and rewards alike; a task on which nothing is gained goes by the mean."""
    returns = np.array([[-300.0, 20.0, -5.0], [-150.0, 10.0, -4.0], [-20.0, 110.0, -4.0]])
    found = shares(returns, np.array([-280.0, 10.0, -4.5]))
    np.testing.assert_allclose(found.mean_return, [-10.5 / 360.5, 130.5 / 360.5, 1.0])
    np.testing.assert_allclose(found.by_task[:, 0], [-20 / 260, 130 / 260, 1.0])
    np.testing.assert_allclose(found.by_task[:, 1], [0.1, 0.0, 1.0])
    np.testing.assert_array_equal(found.by_task[:, 2], found.mean_return)


def test_weights_of_sixteen_bits_are_nearly_the_same_policy(run, tmp_path):
    stem = f"ckpt-{run[1][-1]['updates']:09d}.safetensors"
    whole = load_policy(run[0] / stem)
    save_policy(tmp_path / "half.safetensors", whole, half=True)
    half = load_policy(tmp_path / "half.safetensors")
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(half), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2**-11, atol=2**-24)
    np.testing.assert_array_equal(whole.scale, half.scale)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (run[0] / stem).stat().st_size


def test_mixed_checkpoints_are_spread_over_the_returns():
    share = 1 - np.exp(-np.arange(1, 200) / 30)
    picked = spread(share, 8)
    np.testing.assert_allclose(share[picked], np.linspace(0.05, 1.0, 8), atol=0.02)
    assert picked == sorted(set(picked))
    assert picked[-1] == 198
    # against all choices, on returns that do not rise steadily
    share = np.array([0.3, 0.0, 0.5, 0.2, 0.8, 0.6, 0.9, 1.0])
    goal = np.linspace(0.05, 1.0, 4)
    costs = {c: np.abs(share[[*c, 7]] - goal).sum() for c in itertools.combinations(range(7), 3)}
    assert tuple(spread(share, 4)[:-1]) == min(costs, key=costs.get)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr=0.0"),
        ({"gamma": 1.0}, "gamma=1.0"),
        ({"slots": 30}, "slots=30"),
        ({"updates": 7, "actor_every": 2}, "updates=7"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ConfigError, match=message):
        SACConfig(**change)
