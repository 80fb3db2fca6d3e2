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
import numpy as np

from merpo.algorithms.merpo import MerPOConfig
from merpo.algorithms.pipeline import Learned, NewTasks, Report, make_batch, silent, termination_rule
from merpo.algorithms.threads import side_by_side
from merpo.data.types import SetInfo, TaskData
from merpo.dynamics.ensemble import Ensemble
from merpo.dynamics.fit import FittedModel, adapt_models

SCRATCH = 5
"""Gradient steps of a model from scratch, in those of an adaptation from the meta-model: enough for its hold-out error
to stop falling, where the best parameters on the hold-out are kept."""


def objective(config: MerPOConfig) -> MerPOConfig:
    """The same settings with lambda = 0: no anchor, and no warm-up, in which the actor would follow none."""
    return replace(config, rac=replace(config.rac, lam=0.0, lam_mode="fixed", warmup=0))


def scratch_models(
    learned: Learned,
    tasks: Sequence[TaskData],
    info: SetInfo,
    config: MerPOConfig,
    seeds: Sequence[int] = (0,),
    report: Report = silent,
) -> NewTasks:
    """An ensemble per task from random weights, without the proximal term; of `learned` only the units are used."""
    batch = make_batch(tasks, learned.preparation, config, seed=1)
    termination = termination_rule(info, learned.preparation)
    fit = replace(config.dynamics, eta=0.0, adapt_steps=SCRATCH * config.dynamics.adapt_steps)

    def models_of(seed: int) -> tuple[FittedModel, np.ndarray]:
        k_init, k_fit = jax.random.split(jax.random.fold_in(jax.random.key(seed), 9))
        fresh = Ensemble.init(k_init, info.obs_dim, info.act_dim, fit)
        models, curve = adapt_models(
            fresh, batch.stacked, batch.rows, learned.scale, k_fit,
            config=fit, learn_termination=termination.learned,
        )  # fmt: skip
        return models, np.asarray(curve)

    fitted, errors = zip(*side_by_side(models_of, seeds), strict=True)
    report("models from scratch", len(seeds), len(seeds), {"error": float(np.mean([e[:, -1] for e in errors]))})
    joined = jax.tree.map(lambda *x: jax.numpy.concatenate(x), *fitted)
    return NewTasks(batch, termination, joined, np.stack(errors))
