"""COMBO (Yu et al. 2021) for one task: RAC without either anchor, from scratch.

    Q  <- argmin  beta ( E_rho[Q] - E_D[Q] ) + 1/2 E_{d_f}[ (Q - B^pi Qbar)^2 ]
    pi <- argmax  E_rho[Q] + temperature H(pi)

The objective is `rac`'s with lambda = 0, so the code is `rac`'s too: same networks, batches, beta, f, rollouts. COMBO
proper learns its model from the new log alone (`scratch_models`); on the model adapted from the meta-model instead,
what remains between it and MerPO is the policy's side alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from merpo.algorithms.merpo import MerPOConfig
from merpo.algorithms.pipeline import Learned, NewTasks, termination_rule
from merpo.algorithms.rounds import Report, silent
from merpo.algorithms.stages import make_batch
from merpo.algorithms.threads import side_by_side
from merpo.data.types import SetInfo, Stacked, TaskData
from merpo.dynamics.ensemble import DynamicsConfig, Ensemble, TargetScale
from merpo.dynamics.fit import FittedModel, Rows, adapt_models

SCRATCH = 5
"""Gradient steps of a model from scratch, in those of an adaptation from the meta-model: enough for its hold-out error
to stop falling, where the best parameters on the hold-out are kept."""


def objective(config: MerPOConfig) -> MerPOConfig:
    """The same settings with lambda = 0: no anchor to measure or balance, and no warm-up, in which the actor would
    follow none."""
    free = replace(config.rac, lam=0.0, lam_mode="fixed", alpha_mode="fixed", behaviour="clone", warmup=0)
    return replace(config, rac=free)


def fresh_models(
    stacked: Stacked,
    rows: Rows,
    scale: TargetScale,
    info: SetInfo,
    config: DynamicsConfig,
    learn_termination: bool,
    seeds: Sequence[int],
) -> tuple[FittedModel, Float[np.ndarray, "seed task checks"]]:
    """An ensemble per task from random weights, without the proximal term: [job] leaves, seeds outermost."""
    fit = replace(config, eta=0.0, adapt_steps=SCRATCH * config.adapt_steps)

    def models_of(seed: int) -> tuple[FittedModel, np.ndarray]:
        k_init, k_fit = jax.random.split(jax.random.fold_in(jax.random.key(seed), 9))
        fresh = Ensemble.init(k_init, info.obs_dim, info.act_dim, fit)
        models, curve = adapt_models(
            fresh, stacked, rows, scale, k_fit, config=fit, learn_termination=learn_termination
        )
        return models, np.asarray(curve)

    fitted, errors = zip(*side_by_side(models_of, seeds), strict=True)
    return jax.tree.map(lambda *x: jnp.concatenate(x), *fitted), np.stack(errors)


def scratch_models(
    learned: Learned,
    tasks: Sequence[TaskData],
    info: SetInfo,
    config: MerPOConfig,
    seeds: Sequence[int] = (0,),
    report: Report = silent,
) -> NewTasks:
    """The new tasks with models from their own logs alone; of `learned` only the units are used."""
    batch = make_batch(tasks, learned.preparation, config, seed=1)
    rule = termination_rule(info, learned.preparation)
    fitted, errors = fresh_models(batch.stacked, batch.rows, learned.scale, info, config.dynamics, rule.learned, seeds)
    report("models from scratch", len(seeds), len(seeds), {"error": float(np.mean(errors[..., -1]))})
    return NewTasks(tuple(t.name for t in tasks), batch, rule, fitted, errors)
