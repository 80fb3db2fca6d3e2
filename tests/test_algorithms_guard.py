"""The guard: when the behaviour's clone takes the adapted policy's place, and what says so."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import merpo
from merpo import DynamicsConfig, MerPOConfig, RACConfig, api
from merpo.algorithms import guard, pipeline
from merpo.algorithms.rac import Weights
from merpo.data import Preparation
from merpo.dynamics.fit import FittedModel
from merpo.dynamics.imagination import imagined_returns
from merpo.dynamics.termination import Termination
from merpo.errors import ConfigError, StorageError
from test_algorithms_balance import NEVER, still
from toys import actor, ensemble, linear_set, transitions, unit_scale

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODEL = DynamicsConfig(hidden=(4,), members=4, elites=3)


def fitted(seed: int = 4) -> FittedModel:
    return FittedModel(ensemble(seed, 3, 2, MODEL), jnp.asarray([3, 0, 2], jnp.int32), jnp.zeros(4, jnp.float32))


def agreed() -> FittedModel:
    """All elites are the same network."""
    model = fitted()
    return replace(model, model=jax.tree.map(lambda x: jnp.repeat(x[3:4], 4, axis=0), model.model))


def jobs_of(model: FittedModel, rule: Termination = NEVER, seed: int = 0) -> pipeline.Jobs:
    """Two jobs of one seed on two tasks of 30 and 20 rows, with the same model."""
    data = transitions(seed, (2, 30))
    one = jnp.ones(2, jnp.float32)
    both = jax.tree.map(lambda x: jnp.stack([x, x]), model)
    weights = Weights(one, one, one, one)
    index = jnp.arange(2, dtype=jnp.int32)
    return pipeline.Jobs(
        data, jnp.asarray([30, 20], jnp.int32), index, 0 * index, both, unit_scale(3), rule, weights, jnp.zeros((2, 0))
    )


def twice(policy):
    return jax.tree.map(lambda x: jnp.stack([x, x]), policy)


def kept(policy, clone, jobs, steps=4):
    return guard.keep_better(twice(policy), twice(clone), jobs, jax.random.key(0), steps=steps, group=1)


def test_the_lead_is_the_lower_bound_in_the_least_favourable_elite():
    rng = np.random.default_rng(0)
    policy, clone = rng.normal(size=(3, 50)), rng.normal(size=(3, 50)) + np.asarray([[2.0], [1.0], [3.0]])
    bounds = [np.mean(d) - 2.0 * np.std(d, ddof=1) / np.sqrt(50) for d in clone - policy]
    np.testing.assert_allclose(guard.least_lead(jnp.asarray(clone), jnp.asarray(policy)), min(bounds), rtol=1e-5)
    assert min(bounds) == bounds[1]


def test_the_clone_is_kept_where_it_leads_and_nowhere_else():
    left, right = still(actor(2), -0.6), still(actor(2), 0.6)
    jobs = jobs_of(agreed())
    one, other, same = kept(left, right, jobs), kept(right, left, jobs), kept(left, left, jobs)
    assert np.all(one.cloned != other.cloned)
    assert not np.any(same.cloned)
    np.testing.assert_allclose(same.lead, 0.0, atol=1e-6)
    for j, size in enumerate((30, 18)):
        start, key = jobs.data.obs[j, :size], jax.random.key(5)
        mean = [imagined_returns(p, agreed(), unit_scale(3), NEVER, start, key, 4).mean() for p in (left, right)]
        assert bool(one.cloned[j]) == bool(mean[1] > mean[0])
    for found, policy, clone in ((one, left, right), (other, right, left)):
        for j in range(2):
            expected = clone if bool(found.cloned[j]) else policy
            ours = jax.tree.map(lambda x, j=j: x[j], found.actor)
            jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_all_elites_must_agree():
    """The same networks with the reward turned round in one elite: what leads in the others trails there."""
    left, right, model = still(actor(2), -0.6), still(actor(2), 0.6), agreed()
    found, back = kept(left, right, jobs_of(model), 1), kept(right, left, jobs_of(model), 1)
    assert np.all(found.cloned | back.cloned)

    one = model.model
    last = one.nets.layers[-1]
    sign = jnp.ones(last.bias.shape).at[2, 3].set(-1.0)  # member 2, the mean of the reward
    turned = eqx.tree_at(
        lambda m: (m.nets.layers[-1].weight, m.nets.layers[-1].bias),
        one,
        (last.weight * sign[:, None], last.bias * sign),
    )
    for policy, clone in ((left, right), (right, left)):
        assert not np.any(kept(policy, clone, jobs_of(replace(model, model=turned)), 1).cloned)


TINY = MerPOConfig(
    rac=RACConfig(actor_hidden=(8,), critic_hidden=(8,), batch=8, rollout_rows=4, rollout_length=1, buffer=8,
                  imagine_every=10),
    dynamics=DynamicsConfig(hidden=(8,), members=3, elites=2, meta_iterations=2, pool_steps=0, inner_steps=2,
                            adapt_steps=100),
    train_updates=10, adapt_updates=10, bc_updates=40, guard_steps=7,  # steps of no other test: `SURE` is compiled in
)  # fmt: skip


@pytest.fixture(scope="module")
def learned():
    """A meta-model and a meta-policy that have learned nothing but the units of the data: adapting them is enough here."""
    data = linear_set(2, 6)
    preparation = Preparation.fit(data)
    fresh = api.unlearned(data.info, TINY, (1,))
    scale = pipeline.units_of(data.tasks, preparation, TINY)
    return merpo.Meta(replace(fresh, scale=scale, preparation=preparation), data.info, TINY, (1,))


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_adapting_keeps_the_clone_of_the_whole_log(learned, monkeypatch, tmp_path):
    """With a bar that every clone passes: what is kept are the clones that `bc` gives, and the file says so."""
    tasks = linear_set(3, 6).tasks
    monkeypatch.setattr(guard, "SURE", -1e6)
    found = learned.adapt_many(tasks)
    assert found.cloned == ((True, True, True),)
    assert same(found.tree.actor, learned.adapt_many(tasks, "bc").tree.actor)
    path = tmp_path / "merpo.safetensors"
    found.save(path)
    again = merpo.PolicySet.load(path)
    assert again.cloned == found.cloned
    assert again.policy(0).stands_in


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ConfigError, match="guard_steps=-1"):
        replace(TINY, guard_steps=-1)


@pytest.mark.parametrize("cloned", [((True,),), ((True, False), (True, False))])
def test_a_record_of_clones_that_does_not_fit_is_refused(learned, tmp_path, cloned):
    found = learned.adapt_many(linear_set(2, 6).tasks, "bc")
    path = tmp_path / "p.safetensors"
    replace(found, cloned=((True, False),)).save(path)
    assert merpo.PolicySet.load(path).cloned == ((True, False),)
    replace(found, cloned=cloned).save(path)
    with pytest.raises(StorageError, match="cloned"):
        merpo.PolicySet.load(path)


def test_the_card_says_that_the_clone_stands_in(learned):
    from merpo.deploy.card import sentence

    found = replace(learned.adapt_many(linear_set(2, 6).tasks, "bc"), cloned=((True, False),))
    assert "the clone of the logged behaviour" in sentence(found.policy(0))
    assert "the clone" not in sentence(found.policy(1))


def test_adapt_says_for_which_tasks_the_clone_stands_in(learned, capsys):
    from merpo.commands.adapt import tell_cloned

    found = learned.adapt_many(linear_set(2, 6).tasks, "bc")
    tell_cloned(found)
    assert not capsys.readouterr().out
    tell_cloned(replace(found, cloned=((False, True),)))
    said = capsys.readouterr().out
    assert f"{found.tasks[1]} (seed 1)" in said
    assert found.tasks[0] not in said
