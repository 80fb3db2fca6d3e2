"""What is saved is plain Minari, and plain Minari data sets are tasks."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer

from merpo.data import TaskSet, community, from_minari, load, save
from merpo.errors import DataError, StorageError
from test_data_makers import INFO, changed, make_set, make_task, same

NAME = "walk/medium"
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def buffers(count=4, steps=5, obs=3, act=2, dtype=np.float64):
    """Episodes as Minari's collector makes them: every second one terminates, the others are truncated."""
    rng = np.random.default_rng(0)
    made = []
    for e in range(count):
        ends = np.arange(steps) == steps - 1
        made.append(
            EpisodeBuffer(
                id=e,
                observations=list(rng.normal(size=(steps + 1, obs)).astype(dtype)),
                actions=list(rng.uniform(-1, 1, (steps, act)).astype(np.float32)),
                rewards=list(rng.normal(size=steps)),
                terminations=list(ends & (e % 2 == 0)),
                truncations=list(ends & (e % 2 == 1)),
                infos={},
            )
        )
    return made


def box(n, limit=np.inf):
    return gymnasium.spaces.Box(-limit, limit, (n,), np.float32)


def plain(dataset_id, **options):
    spaces = {"observation_space": box(3), "action_space": box(2, 1.5)}
    return minari.create_dataset_from_buffers(dataset_id, buffers(), **{**spaces, **options})


def test_minari_reads_every_task_as_it_is(root):
    data = make_set()
    save(data, NAME, root)
    for i, task in enumerate(data):
        dataset = minari.load_dataset(f"{NAME}/task-{i:03d}-{task.split}-v2")
        assert (dataset.total_episodes, dataset.total_steps) == (task.episodes, len(task))
        t, start = task.transitions, task.episode_start
        for e, episode in enumerate(dataset.iterate_episodes()):
            rows = slice(start[e], start[e + 1])
            np.testing.assert_array_equal(episode.observations[:-1], t.obs[rows])
            np.testing.assert_array_equal(episode.observations[1:], t.next_obs[rows])
            np.testing.assert_array_equal(episode.actions, t.action[rows])
            np.testing.assert_array_equal(episode.rewards, t.reward[rows])
            np.testing.assert_array_equal(episode.terminations, t.terminated[rows])
            np.testing.assert_array_equal(episode.truncations, t.truncated[rows])
            assert episode.observations.dtype == np.float32
            assert episode.terminations.dtype == bool
            assert "EpisodeData" in repr(episode)
        assert dataset.observation_space.shape == (3,)
        assert dataset.action_space == box(2, 1.0)
        assert len(list(dataset.sample_episodes(2))) == 2
        assert dataset.storage.metadata["merpo_parameters"] == task.parameters
        scores = minari.get_normalized_score(dataset, np.array([-3.0, task.reference["expert"]]))
        np.testing.assert_allclose(scores, [0, 1])


def test_minaris_listing_and_appending_work(root):
    save(make_set(), NAME, root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        listed = minari.list_local_datasets()
    assert list(listed) == [
        f"{NAME}/task-000-train-v2",
        f"{NAME}/task-001-train-v2",
        f"{NAME}/task-002-test-v2",
    ]
    assert minari.namespace.list_local_namespaces() == ["walk", "walk/medium"]
    dataset = minari.load_dataset(f"{NAME}/task-000-train-v2")
    extra = replace(buffers(1)[0], id=None)
    dataset.update_dataset_from_buffer([extra])
    assert minari.load_dataset(f"{NAME}/task-000-train-v2").total_episodes == 4
    with pytest.raises(StorageError, match="from_minari"):
        load(NAME, root)  # the change is noticed, and from_minari takes it
    assert from_minari([f"{NAME}/task-000-train-v2"], family="walk", horizon=6)[0].episodes == 4


def test_the_environment_can_be_recovered(root):
    spec = gymnasium.spec("CartPole-v1")
    own = EnvSpec(
        "CartPole-v1", entry_point=spec.entry_point, kwargs={"sutton_barto_reward": True}, max_episode_steps=7
    )
    save(make_set(), NAME, root, env_spec={"a": own, "b": spec.to_json()})
    env = minari.load_dataset(f"{NAME}/task-000-train-v2").recover_environment()
    assert env.spec is not None
    assert env.spec.kwargs["sutton_barto_reward"] is True
    assert env.spec.max_episode_steps == 7
    assert minari.load_dataset(f"{NAME}/task-001-train-v2").env_spec.id == "CartPole-v1"
    assert minari.load_dataset(f"{NAME}/task-002-test-v2").env_spec is None


def test_specs_that_minari_would_drop_silently_are_refused(root):
    bad = EnvSpec("CartPole-v1", entry_point="x:y", kwargs={"wind": np.zeros(2)})
    for spec, match in [
        (bad, r"env_spec of task 'a' cannot be written as JSON .*x.tolist\(\)"),
        ("{", "not valid JSON"),
        ("[]", "no field 'id'"),
        (3.0, "has type float"),
        (EnvSpec("CartPole-v1", entry_point=lambda: None), "cannot be written as JSON"),
    ]:
        with pytest.raises(DataError, match=match):
            save(make_set(), NAME, root, env_spec=spec)
    assert not list(root.iterdir())


def test_a_saved_set_comes_back_through_from_minari(root):
    data = make_set()
    folder = save(data, NAME, root)
    names = {str(folder / f"task-{i:03d}-{t.split}-v2"): t.name for i, t in enumerate(data)}
    paths = list(names)
    again = from_minari(
        paths[:2], paths[2:], family="walk", gamma=0.9, horizon=6, names=names, quality="medium", version=2, termination="never",
        parameters=dict(zip(paths, (t.parameters for t in data), strict=True)),
    )  # fmt: skip
    assert again.info == replace(INFO, action_low=(-1.0, -1.0), action_high=(1.0, 1.0), seed=0, versions=())
    expected = tuple(replace(t, reference={}) for t in data)
    assert same(replace(again, info=INFO), TaskSet(INFO, expected))


def test_plain_minari_data_sets_become_tasks(root):
    plain("mine/left-v0")
    plain("mine/right-v0")
    data = from_minari(["mine/left-v0"], [root / "mine/right-v0" / "data"], family="mine")
    assert [(t.name, t.split) for t in data] == [("mine/left-v0", "train"), ("mine/right-v0", "test")]
    task, episode = data[0], buffers()[1]
    rows = slice(5, 10)
    np.testing.assert_array_equal(task.transitions.obs[rows], np.float32(episode.observations[:-1]))
    np.testing.assert_array_equal(task.transitions.next_obs[rows], np.float32(episode.observations[1:]))
    assert task.transitions.terminated.nonzero()[0].tolist() == [4, 14]
    assert task.transitions.truncated.nonzero()[0].tolist() == [9, 19]
    assert data.info.action_low == (-1.5, -1.5)
    assert data.info.horizon == 5


def test_minari_sets_that_do_not_fit(root):
    plain("mine/left-v0")
    with pytest.raises(StorageError, match=r"neither a folder nor a local Minari data set.*minari download"):
        from_minari(["mine/none-v0"], family="mine")
    with pytest.raises(StorageError, match="neither a folder nor a local Minari data set"):
        from_minari(["no id at all"], family="mine")
    with pytest.raises(StorageError, match="not a readable Minari data set"):
        from_minari([root / "mine"], family="mine")
    with pytest.raises(DataError, match="train is empty"):
        from_minari([], family="mine")
    with pytest.raises(DataError, match="'mine/left-v0' is used for two"):
        from_minari(["mine/left-v0", root / "mine/left-v0"], family="mine")
    minari.create_dataset_from_buffers("mine/wide-v0", buffers(obs=4), observation_space=box(4), action_space=box(2))
    with pytest.raises(DataError, match=r"'mine/wide-v0': obs has shape \(20, 4\), expected \(20, 3\)"):
        from_minari(["mine/left-v0", "mine/wide-v0"], family="mine")
    plain("mine/discrete-v0", action_space=gymnasium.spaces.Discrete(2))
    with pytest.raises(DataError, match=r"space is Discrete\(2\), expected a one-dimensional Box.*FlattenObs"):
        from_minari(["mine/discrete-v0"], family="mine")


def test_long_arrow_episodes_are_refused(root, monkeypatch):
    dataset = plain("mine/arrow-v0")  # pyarrow may be missing: only the name of the backend is Arrow's
    dataset.storage.FORMAT = "arrow"
    assert len(community._episodes("mine/arrow-v0", dataset)["reward"]) == 20
    monkeypatch.setattr(community, "ARROW_LIMIT", 4)
    with pytest.raises(DataError, match=r"of 5 steps; Minari's Arrow backend corrupts.*data_format='hdf5'"):
        community._episodes("mine/arrow-v0", dataset)


def test_foreign_and_truncated_files(root):
    for name, damage in [
        ("cut", lambda b: b[: len(b) // 2]),
        ("foreign", lambda b: b"not HDF5 at all"),
        ("empty", lambda b: b""),
    ]:
        plain(f"mine/{name}-v0")
        path = root / f"mine/{name}-v0/data/main_data.hdf5"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(StorageError, match="its episodes cannot be read"):
            from_minari([f"mine/{name}-v0"], family="mine")
    plain("mine/meta-v0")
    path = root / "mine/meta-v0/data/metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "total_episodes": 9}))
    with pytest.raises(StorageError, match="cannot be read"):
        from_minari(["mine/meta-v0"], family="mine")
    path.write_text("{")
    with pytest.raises(StorageError, match="not a readable Minari data set"):
        from_minari(["mine/meta-v0"], family="mine")


def test_broken_chains_are_kept_in_the_infos(root):
    odd = changed(make_task(), "next_obs", 2, 7.0)
    save(TaskSet(INFO, (odd,)), NAME, root)
    episode = minari.load_dataset(f"{NAME}/task-000-train-v2")[0]
    np.testing.assert_array_equal(episode.infos["next_observation"][1:], odd.transitions.next_obs[:6])
    np.testing.assert_array_equal(episode.observations[:-1], odd.transitions.obs[:6])
