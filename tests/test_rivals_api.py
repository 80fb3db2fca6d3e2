"""The rivals through the front door and from the command line, on tiny settings."""

import json
from dataclasses import replace

import equinox as eqx
import jax
import numpy as np
import pytest

import merpo
from merpo import ConfigError, StorageError, rivals
from merpo.algorithms import pipeline
from merpo.algorithms.rivals.policies import check_description, describe, skeleton
from merpo.api import METHODS
from merpo.cli import main
from merpo.commands import record
from merpo.data import Preparation
from merpo.evaluation import results_from_json
from merpo.networks import Actor
from merpo.policies import PolicyTree
from merpo.runs import read_meta, save_checkpoint, to_json
from rival_cases import tiny
from test_api_fit import TINY
from toys import actor, linear_info, linear_set, linear_task

pytestmark = pytest.mark.usefixtures("quick_compilation")
OBS = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def new():
    return [linear_task(f"new-{i}", 3 + i, 20 + i, split="test") for i in range(2)]


def same(a, b, tolerance=0.0):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_a_context_learner_fits_adapts_and_is_stored(new, tmp_path):
    """MBML, which has the most of it: teachers and models first, and a policy that is not an actor."""
    method, reports = "mbml", []
    learner = rivals.ContextLearner(method, tiny(method), seeds=(3, 5))
    meta = learner.fit(linear_set(3), report=lambda *figures: reports.append(figures))
    assert reports[-1][1:3] == (8, 8)
    assert all(c.shape == (8, 2, 1) and np.isfinite(c).all() for c in meta.curves.values())
    policies = meta.adapt_many(new)
    action = policies.policy("new-1", seed=5)(OBS)
    assert action.shape == (5, 1)
    assert np.abs(action).max() <= 1.0
    assert not np.array_equal(policies.policy(1, seed=3)(OBS), action)
    # z is read off the log: alone or padded beside a longer one, in any order of its episodes; another log, another z
    z = policies.tree.actor.z
    for log in (new[0], new[0].select([2, 0, 1])):
        np.testing.assert_allclose(meta.adapt(log).actor.z, z[0, 0], rtol=1e-3, atol=1e-5)
    assert np.abs(z[0, 0] - z[0, 1]).max() > 1e-3

    path = tmp_path / "meta.safetensors"
    meta.save(path)
    loaded = rivals.ContextMeta.load(path, tiny(method))
    assert (loaded.method, loaded.config, loaded.seeds, loaded.info) == (method, tiny(method), (3, 5), meta.info)
    same(loaded.adapt_many(new).tree.actor, policies.tree.actor)
    policies.save(tmp_path / "policies.safetensors")
    stored = merpo.PolicySet.load(tmp_path / "policies.safetensors")
    assert stored.config == tiny(method)
    same(stored.tree.actor, policies.tree.actor)
    np.testing.assert_array_equal(stored.policy("new-1", seed=5)(OBS), action)
    with pytest.raises(StorageError, match="kind"):
        merpo.Meta.load(path)
    with pytest.raises(ConfigError, match=r"Constrained.*best of many"):
        stored.policy("new-1").export(tmp_path / "policy.onnx")
    with pytest.raises(ConfigError, match="updates"):
        rivals.ContextMeta.load(path, tiny(method, updates=16))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="method='maml'"):
        rivals.ContextLearner("maml")
    with pytest.raises(ConfigError, match="PearlConfig, expected the FocalConfig"):
        rivals.ContextLearner("focal", tiny("pearl"))
    with pytest.raises(ConfigError, match="seeds"):
        rivals.Focal(seeds=(1, 1))


@pytest.fixture(scope="module")
def meta():
    return merpo.MerPO(TINY, seeds=(3, 5)).fit(linear_set(3))


@pytest.mark.parametrize("method", ["combo", "combo+meta-model", "iql", "td3+bc"])
def test_single_task_rivals_adapt(meta, new, method, tmp_path):
    settings = {"settings": tiny(method, hidden=(7,))} if method in ("iql", "td3+bc") else {}
    found = meta.adapt_many(new, method, **settings)
    assert all(np.isfinite(x).all() and x.shape[:2] == (2, 2) for x in jax.tree.leaves(found.tree.actor))
    assert all(c.shape[1:] == (2, 2) and np.isfinite(c).all() for c in found.curves.values())
    if method.startswith("combo"):
        # no anchor: lambda is as good as nothing
        assert found.curves["rac/lambda"].max() < 1e-7
        checks = TINY.dynamics.adapt_steps // TINY.dynamics.check_every
        assert found.model_error.shape == (2, 2, (5 if method == "combo" else 1) * checks + 1)
    found.save(tmp_path / "p.safetensors")  # with widths that are not MerPO's
    same(merpo.PolicySet.load(tmp_path / "p.safetensors").tree.actor, found.tree.actor)


def test_combo_is_as_conservative_as_it_is_told(meta, new):
    """Its own beta takes the place of the other methods', which leaves theirs alone."""
    told, theirs = meta.adapting({"combo_beta": 7.0}), meta.adapting({"rac.beta": 7.0})
    own = [m.adapt_many(new, "combo").tree.actor for m in (meta, told, theirs)]
    assert eqx.tree_equal(own[1], own[2])
    assert not eqx.tree_equal(own[0], own[1])
    assert eqx.tree_equal(told.adapt_many(new, "rac").tree.actor, meta.adapt_many(new, "rac").tree.actor)


def test_combo_has_no_anchor_to_measure_or_to_fall_back_on(meta, new, monkeypatch):
    def asked(*args, **settings):
        raise AssertionError("the clone was compared")

    monkeypatch.setattr(pipeline.guard, "keep_better", asked)
    held = meta.adapting({"guard_steps": 5, "adapt_behaviour": "density"})
    for method in ("combo", "combo+meta-model"):
        found = held.adapt_many(new, method)
        assert "actor/clone" in found.curves
        assert eqx.tree_equal(found.tree.actor, meta.adapt_many(new, method).tree.actor)
    with pytest.raises(AssertionError, match="compared"):
        held.adapt_many(new, "rac")


def test_combo_from_scratch_uses_nothing_that_the_meta_training_learned(meta, new):
    """Its policy is the same beside any other meta-model and meta-policy; with the meta-model it is not."""
    learned = jax.tree.map(
        lambda x: 0.5 * x, (meta.learned.meta_model, meta.learned.meta_actor, meta.learned.meta_critic)
    )
    where = lambda m: (m.meta_model, m.meta_actor, m.meta_critic)  # noqa: E731
    other = replace(meta, learned=eqx.tree_at(where, meta.learned, learned))
    a, b = (m.adapt_many(new, "combo").tree.actor for m in (meta, other))
    assert eqx.tree_equal(a, b)
    a, b = (m.adapt_many(new, "combo+meta-model").tree.actor for m in (meta, other))
    assert not eqx.tree_equal(a, b)


def test_settings_belong_to_their_method(meta, new):
    for method, settings in (("combo", tiny("iql")), ("iql", tiny("td3+bc"))):
        with pytest.raises(ConfigError, match=f"method='{method}'"):
            meta.adapt_many(new, method, settings=settings)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda m: m.pop("network"), "network is missing"),
        (lambda m: m.update(network={"kind": "pickle"}), "network="),
        (lambda m: m["network"].update(hidden=[4, -1]), "network.hidden"),
        (lambda m: m["network"].update(hidden=[2**40]), "network.hidden"),
        (lambda m: m.update(network=m["network"] | {"kind": "constrained"}), "vae_hidden"),
        (lambda m: m.update(config_type="Popen"), "config_type='Popen'"),
        (lambda m: m.update(config_type="PearlConfig"), "PearlConfig has no such setting"),
    ],
)
def test_a_damaged_header_is_refused_by_name(change, word, tmp_path):
    """Also of a file whose checksums are right."""
    net = jax.tree.map(lambda x: x[None, None], actor(0, obs=2, act=1))
    found = PolicyTree(net, Preparation.like(2, 1))
    policies = merpo.PolicySet("bc", found, linear_info(), ("new-0",), (3,), TINY)
    path = tmp_path / "p.safetensors"
    policies.save(path)
    content = read_meta(path)
    assert merpo.PolicySet.load(path).tasks == ("new-0",)
    change(content)
    save_checkpoint(path, found, content)
    with pytest.raises(StorageError, match=word):
        merpo.PolicySet.load(path)


def test_the_commands_know_every_method():
    assert record.ADAPTED == METHODS
    assert record.CONTEXT == rivals.METHODS
    assert set(record.METHODS) == {*METHODS, *rivals.METHODS}


def test_a_context_learner_from_the_command_line(tmp_path, monkeypatch, capsys):
    """train, adapt, evaluate; and what does not fit."""
    monkeypatch.setenv("MERPO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MERPO_CACHE_DIR", "off")
    (tmp_path / "tiny.json").write_text(json.dumps(to_json(tiny("pearl"))))
    out = str(tmp_path / "run")
    args = ["train", "point-robot-wind/medium", "--out", out, "--episodes", "2", "--method"]
    assert main([*args, "pearl", "--config", str(tmp_path / "tiny.json"), "--seeds", "0", "3"]) == 0
    assert main(["adapt", out, "--tasks", "task-041", "task-044"]) == 0
    assert main(["evaluate", out, "--episodes", "2", "--no-figure"]) == 0
    policy = str(tmp_path / "policy.onnx")
    assert main(["export", out, "--method", "pearl", "--task", "task-041", "--out", policy]) == 0
    results = results_from_json(json.loads((tmp_path / "run" / "results.json").read_text()))
    assert list(results.returns) == ["pearl"]
    assert results.returns["pearl"].shape == (2, 2, 2)
    assert "8 updates of 5 rows of each of 4 tasks, drawn from 40 training tasks" in results.protocol.budget
    capsys.readouterr()
    for wrong, word in (
        (["adapt", out, "--methods", "merpo"], "methods='merpo'"),
        (["adapt", out, "--certify"], "certify"),
        ([*args, "pearl", "--alpha", "0.3", "--overwrite"], "alpha"),
        ([*args, "maml", "--overwrite"], "method='maml'"),
        ([*args, "pearl", "--resume"], "resume: method='pearl'"),
        (["report", out, "--out", str(tmp_path / "page.html")], "a run of pearl"),
        (["export", out, "--task", "task-041", "--out", policy], "no policies of 'merpo'; adapted there: pearl"),
    ):
        assert main(wrong) == 2
        assert word in capsys.readouterr().err


def test_a_linear_policy_can_be_stored():
    net = Actor(3, 2, (), jax.random.key(0))
    description = json.loads(json.dumps(describe(net)))
    check_description(description)
    like = skeleton(description, 3, 2)
    assert jax.tree.map(np.shape, like) == jax.tree.map(np.shape, net)
    with pytest.raises(ConfigError, match="hidden"):
        check_description({"kind": "actor", "hidden": [0]})
