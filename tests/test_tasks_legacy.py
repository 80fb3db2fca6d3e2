"""Legacy physics: the field's masses, closed forms, and replays that tell one physics from the other."""

import json

import minari
import mujoco
import numpy as np
import pytest

from merpo import data
from merpo.cli import main
from merpo.errors import ConfigError, DataError
from merpo.tasks import env_specs, family_of, generate, get_family, models, replay
from merpo.tasks.models import cylinder_model, load_model

ONE = np.zeros(1, np.int64)


def masses(description, physics):
    return np.asarray(load_model("any", description, physics).body_mass)[1:]


def test_the_legacy_masses_are_the_field_s():
    leg = [3.92699, 2.71434, 2.94053]
    np.testing.assert_allclose(masses("walker2d.xml", "legacy"), [3.53429, *leg, *leg], atol=5e-6)
    cheetah = [6.36031, 1.53525, 1.58094, 1.06919, 1.42559, 1.17885, 0.84987]
    np.testing.assert_allclose(masses("half_cheetah.xml", "legacy"), cheetah, atol=5e-6)
    assert masses("half_cheetah.xml", "legacy").sum() == pytest.approx(14.0)
    # a capsule of the walker's thigh: radius 0.05, half-length 0.225, density 1000
    cylinder, balls = np.pi * 0.05**2 * 0.45, 4 / 3 * np.pi * 0.05**3
    assert masses("walker2d.xml", "modern")[1] == pytest.approx(1000 * (cylinder + balls))


def test_legacy_inertias_in_closed_form():
    """A cylinder of half-length h + r/2 about its centre; the walker's bodies have one capsule each."""
    model = load_model("any", "walker2d.xml", "legacy")
    for body, (radius, half) in {"torso": (0.05, 0.2), "thigh": (0.05, 0.225), "leg_left": (0.04, 0.25)}.items():
        length = 2 * half + radius
        mass = 1000 * np.pi * radius**2 * length
        across, along = mass * (3 * radius**2 + length**2) / 12, mass * radius**2 / 2
        i = model.body(body).id
        assert model.body_mass[i] == pytest.approx(mass, rel=1e-12)
        np.testing.assert_allclose(np.sort(model.body_inertia[i]), [along, across, across], rtol=1e-12)


@pytest.mark.parametrize("description", ["walker2d.xml", "half_cheetah.xml", "ant.xml", "hopper.xml"])
def test_legacy_equals_invisible_cylinders(description):
    """The cure spelled out in the description steps the same: only masses differ from the modern robot."""
    cured, spelled = load_model("any", description, "legacy"), cylinder_model(mujoco, description)
    a, b = mujoco.MjData(cured), mujoco.MjData(spelled)
    rng = np.random.default_rng(0)
    for d in (a, b):
        d.qvel[:] = 0.1
    for _ in range(60):
        a.ctrl[:] = b.ctrl[:] = rng.uniform(-1, 1, cured.nu)
        mujoco.mj_step(cured, a)
        mujoco.mj_step(spelled, b)
        np.testing.assert_allclose(a.qvel, b.qvel, atol=1e-7)
    assert a.ncon == b.ncon
    plain = load_model("any", description, "modern")
    assert not np.allclose(plain.body_mass, cured.body_mass)
    np.testing.assert_array_equal(plain.geom_margin, cured.geom_margin)
    np.testing.assert_array_equal(plain.geom_size, cured.geom_size)


@pytest.mark.parametrize(("version", "factor"), [("3.3.7", 1.0), ("3.4.0", 1.0), ("3.5.0", 0.5), ("4.0.1", 0.5)])
def test_margins_are_halved_where_they_add_up(monkeypatch, version, factor):
    plain = load_model("any", "ant.xml", "modern").geom_margin
    monkeypatch.setattr(mujoco, "__version__", version)
    np.testing.assert_array_equal(load_model("any", "ant.xml", "legacy").geom_margin, factor * plain)
    np.testing.assert_array_equal(load_model("any", "ant.xml", "modern").geom_margin, plain)


def test_foot_friction():
    walker = get_family("walker-2d-params")
    ones = {name: np.ones_like(value).tolist() for name, value in walker.parameters(0).items()}
    for physics, right in (("legacy", 0.9), ("modern", 1.9)):
        model = walker.make_simulator([ones], physics, 1).models[0]
        assert model.geom("foot_geom").friction[0] == right
        assert model.geom("foot_left_geom").friction[0] == 1.9


def test_the_cheetah_s_legacy_observation():
    """17 numbers, then the torso's position as MuJoCo has it: that of one frame before."""
    family = get_family("half-cheetah-fwd-back", "legacy", "legacy")
    assert (family.obs_dim, family.physics) == (20, "legacy")
    simulator = family.simulator
    state, action = simulator.initial(0, 1, 0), np.random.default_rng(0).uniform(-1, 1, 6)
    model = load_model("any", "half_cheetah.xml", "legacy")
    d = mujoco.MjData(model)
    d.qpos[:], d.qvel[:] = state[:9], state[9:18]
    mujoco.mj_forward(model, d)
    obs = simulator.observe(state)
    np.testing.assert_allclose(obs, np.float32([*d.qpos[1:], *d.qvel, *d.body("torso").xpos]))
    for _ in range(3):
        d.ctrl[:] = action
        d.qacc_warmstart[:] = 0.0
        mujoco.mj_step(model, d, 5)
        state = simulator.step(np.ones(1, np.int64), state[None], action[None])[0][0]
        expected = [*d.qpos[1:], *d.qvel, *d.body("torso").xpos]
        np.testing.assert_allclose(simulator.observe(state), expected, atol=1e-5)
    assert abs(state[0] - state[18]) > 1e-4  # late, not the present x


@pytest.mark.parametrize(("name", "factor"), [("half-cheetah-fwd-back", 1e3), ("ant-fwd-back", 1e2)])
def test_a_replay_tells_the_physics(name, factor):
    for made_in in ("modern", "legacy"):
        logs = generate(get_family(name, made_in), "random", episodes=2)
        assert logs.info.physics == made_in
        report = replay(logs, rows=100)
        assert (report.recorded, report.nearest.physics) == (made_in, made_in)
        modern, legacy = report.settings
        right, wrong = (modern, legacy) if made_in == "modern" else (legacy, modern)
        assert right.velocity.median < 1e-5
        assert right.position.median < 1e-6
        assert right.reward.median < 1e-5
        assert wrong.velocity.median > factor * max(right.velocity.median, 1e-7)
        assert (right.ends, right.skipped) == (0, 0)


def test_a_replay_of_clipped_and_of_observed_positions():
    logs = generate("walker-2d-params", "random", episodes=3)
    report = replay(logs, ["modern"])
    found = report.settings[0]
    clipped = sum(int((np.abs(t.transitions.obs[:, 8:]) >= 10).any(1).sum()) for t in logs)
    assert (found.skipped, found.rows) == (clipped, sum(len(t) for t in logs) - clipped)
    assert found.velocity.high < 1e-4
    assert found.ends == 0
    # legacy observations are known by their length
    logs = generate(get_family("half-cheetah-fwd-back", "legacy", "legacy"), "random", episodes=1)
    assert family_of(logs.info).obs_dim == logs.info.obs_dim == 20
    assert replay(logs, ["legacy"], rows=5).settings[0].velocity.median < 1e-5
    assert replay(generate("sparse-point-robot", "medium", 1), rows=20).settings[0].velocity is None


def test_a_replay_of_foreign_logs():
    """Without parameters rewards are not compared; where bodies differ, nothing can be."""
    from dataclasses import replace

    def foreign(name):
        logs = generate(name, "random", episodes=1)
        info = replace(logs.info, family="mine", quality="imported")
        return replace(logs, info=info, tasks=tuple(replace(t, parameters={}) for t in logs))

    logs = foreign("half-cheetah-fwd-back")
    report = replay(logs, ["modern"], "half-cheetah-fwd-back")
    assert report.settings[0].reward is None
    assert report.settings[0].velocity.median < 1e-5
    with pytest.raises(ConfigError, match="have 17 and 6 numbers, the"):
        replay(foreign("ant-fwd-back"), ["modern"], "half-cheetah-fwd-back")
    with pytest.raises(DataError, match="has no parameters"):
        replay(foreign("walker-2d-params"), ["modern"], "walker-2d-params")
    with pytest.raises(ConfigError, match="rows=0"):
        replay(logs, ["modern"], "half-cheetah-fwd-back", rows=0)


def test_settings_that_a_family_lacks():
    for name, physics, observation, message in (
        ("point-robot-goal", "legacy", "standard", "physics='legacy': expected one of none"),
        ("ant-fwd-back", "moden", "standard", "physics='moden': expected one of modern, legacy"),
        ("ant-fwd-back", "legacy", "legacy", "observation='legacy': expected one of standard"),
    ):
        with pytest.raises(ConfigError, match=message):
            get_family(name, physics, observation)
    assert get_family("ant-dir", "modern") is get_family("ant-dir", "modern")
    with pytest.raises(ConfigError, match="physics='old'"):
        load_model("any", "ant.xml", "old")
    assert models.version_of("3.4.0") < models.MARGINS_ADD <= models.version_of("3.5.0.dev1")


@pytest.mark.parametrize(
    ("name", "physics", "observation", "task"),
    [("walker-2d-params", "modern", "standard", 21), ("half-cheetah-fwd-back", "legacy", "legacy", 3)],
)
def test_minari_recovers_the_very_task(tmp_path, monkeypatch, name, physics, observation, task):
    family = get_family(name, physics, observation)
    made = generate(family, "random", episodes=1)
    data.save(made, "a/b", tmp_path, env_spec=env_specs(made))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    stored = minari.load_dataset(f"a/b/task-{task:03d}-test-v1")
    env = stored.recover_environment()
    assert env.spec.max_episode_steps == 200
    inner = env.unwrapped
    assert (inner.family.physics, inner.family.observation) == (physics, observation)
    x = made[task].transitions
    state, sound = inner.simulator.reconstruct(np.asarray(x.obs[:3], np.float64))
    for row in np.flatnonzero(sound):
        env.reset(seed=0, options={"state": state[row]})
        obs, reward, terminated, *_ = env.step(x.action[row])
        np.testing.assert_allclose(obs[:17], x.next_obs[row, :17], atol=1e-4)
        assert reward == pytest.approx(x.reward[row], abs=1e-4)
        assert terminated == x.terminated[row]


def test_the_replay_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MERPO_DATA_DIR", str(tmp_path))
    made = ["data", "generate", "half-cheetah-fwd-back", "--quality", "random", "--episodes", "1"]
    assert main([*made, "--physics", "legacy", "--observation", "legacy"]) == 0
    name = "half-cheetah-fwd-back/random-legacy-obs20-e1-s0"
    assert main(["data", "replay", name, "--rows", "50"]) == 0
    out = capsys.readouterr().out
    assert "recorded as physics legacy" in out
    assert out.strip().endswith("nearest: legacy")
    assert main(["data", "replay", name, "--rows", "50", "--json", "--physics", "legacy"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"][0]["velocity"]["median"] < 1e-5
