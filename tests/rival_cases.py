"""The rivals' algorithms with tiny settings, their states filled by NumPy, and batches to update them with."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from merpo.algorithms.rivals import adapt, contextual
from merpo.algorithms.rivals.bcq import BCQConfig
from merpo.algorithms.rivals.brac import BRACConfig
from merpo.algorithms.rivals.encoders import ContextConfig, MetaBatch, features
from merpo.algorithms.rivals.mbml import LessonBatch, MbmlConfig, TeacherConfig, teacher_init
from merpo.algorithms.rivals.sac import SACConfig
from merpo.algorithms.rivals.td import Trained
from merpo.dynamics.ensemble import DynamicsConfig
from toys import filled, transitions

GAMMA = 0.9
CONTEXT = ContextConfig(latent=2, hidden=(4,), rows=3, tasks=4, batch=5)
SAC = SACConfig(hidden=(4,))
BCQ = BCQConfig(hidden=(4,), vae_hidden=(4,), candidates=3, act_candidates=4)
MBML = MbmlConfig(
    CONTEXT,
    TeacherConfig(BCQ, batch=5, updates=4),
    DynamicsConfig(hidden=(4,), members=2, elites=2, batch=4, adapt_steps=2, check_every=1),
    updates=8,
)
AGENTS = {"pearl": SAC, "cbcq": BCQ}
ALGORITHMS = {name: pair[0] for name, pair in {**adapt.MODEL_FREE, **contextual.CONTEXT}.items()}


def tiny(name: str, **changes):
    """Settings for tests."""
    if name in adapt.MODEL_FREE:
        return replace(adapt.MODEL_FREE[name][1](hidden=(4,), batch=5, updates=8), **changes)
    if name == "mbml":
        return replace(MBML, **changes)
    agent = AGENTS.get(name, BRACConfig(sac=SAC))
    return replace(contextual.CONTEXT[name][1](CONTEXT, agent, updates=8), **changes)


def fresh(tree):
    """The same networks with optimisers that have not moved yet."""
    is_trained = lambda x: isinstance(x, Trained)  # noqa: E731
    return jax.tree.map(lambda x: Trained.start(x.net) if is_trained(x) else x, tree, is_leaf=is_trained)


def rival_state(name: str, i: int):
    """As `init` would give it, but for the numbers."""
    return fresh(filled(lambda k: ALGORITHMS[name].init(k, 3, 2, tiny(name)), i))


def rival_batch(name: str, i: int, size: float = 1.0):
    """Rows of one task, or a meta-batch in which one task occurs twice."""

    def rows(seed: int, lead):
        t = transitions(seed, lead)
        large = (t.obs * size, t.next_obs * size, t.reward * size**2)
        return eqx.tree_at(lambda t: (t.obs, t.next_obs, t.reward), t, large)

    if name in adapt.MODEL_FREE:
        return rows(i, 5)
    task = jnp.asarray(np.array([0, 2, 0, 1]), jnp.int32)
    batch = MetaBatch(task, rows(i, (4, 5)), features(rows(i + 90, (4, 3)), GAMMA))
    if name != "mbml":
        return batch
    teachers = [fresh(filled(lambda k: teacher_init(k, 3, 2, MBML.teacher), i + j)) for j in range(4)]
    others = (features(rows(i + j, (4, 3)), GAMMA) for j in (91, 92))
    return LessonBatch(batch, jax.tree.map(lambda *x: jnp.stack(x), *teachers), *others)


def rival_case(name: str, i: int, size: float = 1.0):
    return rival_state(name, i), rival_batch(name, i, size)


def rival_update(name: str):
    config = tiny(name)

    def update(state, batch, key):
        return ALGORITHMS[name].update(state, batch, key, GAMMA, config)

    return update
