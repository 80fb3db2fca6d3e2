"""COMBO (Yu et al. 2021) for one task: RAC without either anchor, from scratch.

    Q  <- argmin  beta ( E_rho[Q] - E_D[Q] ) + 1/2 E_{d_f}[ (Q - B^pi Qbar)^2 ]
    pi <- argmax  E_rho[Q] + temperature H(pi)

The objective is `rac`'s with lambda = 0, so the code is `rac`'s too: same networks, batches, f, rollouts. Conservatism
alone holds the policy to the log, so its beta is COMBO's own (`MerPOConfig.combo_beta`; the paper's grid is 0.5, 1, 5).
COMBO proper learns its model from the new log alone (`scratch_models`); on the model adapted from the meta-model
instead, what remains between it and MerPO is the policy's side alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.pipeline import Learned, NewTasks, termination_rule
from merpo.algorithms.rounds import Report, silent
from merpo.algorithms.stages import FROM_SCRATCH, fresh_models, make_batch
from merpo.data.types import SetInfo, TaskData


def objective(config: MerPOConfig) -> MerPOConfig:
    """The same settings with lambda = 0 and COMBO's beta: no anchor to measure, to balance or to fall back on, and no
    warm-up, in which the actor would follow none."""
    beta = config.rac.beta if config.combo_beta is None else config.combo_beta
    free = replace(config.rac, beta=beta, lam=0.0, lam_mode="fixed", alpha_mode="fixed", behaviour="clone", warmup=0)
    return replace(config, rac=free, adapt_behaviour=None, guard_steps=0)


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
    steps = FROM_SCRATCH * config.dynamics.adapt_steps
    fitted, errors = fresh_models(batch, learned.scale, info, config.dynamics, steps, rule.learned, seeds)
    report("models from scratch", len(seeds), len(seeds), {"error": float(np.mean(errors[..., -1]))})
    return NewTasks(tuple(t.name for t in tasks), batch, rule, fitted, errors)
