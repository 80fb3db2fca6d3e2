"""Single-task rivals beside a MerPO run: the same tasks, units, budget and seeds.

What belongs to the budget is MerPO's: network widths, rows per update, updates, step sizes and Polyak rate, and how
jobs are grouped (with the papers' step sizes, made for hundreds of thousands of updates, the same fixed points would
only be sought more slowly). Everything else is the papers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from merpo.algorithms import pipeline
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.pipeline import Learned, NewTasks
from merpo.algorithms.rivals import combo, iql, td3bc
from merpo.algorithms.rivals.iql import IQLConfig
from merpo.algorithms.rivals.running import Algorithm, draw_rows, every_job, run
from merpo.algorithms.rivals.td3bc import TD3BCConfig
from merpo.algorithms.rounds import Report, silent
from merpo.data.types import SetInfo, TaskData, stack
from merpo.devices import batched
from merpo.errors import ConfigError

Settings = TD3BCConfig | IQLConfig
TD3BC = Algorithm("td3+bc", td3bc.init, draw_rows, td3bc.update, td3bc.policy)
IQL = Algorithm("iql", iql.init, draw_rows, iql.update, iql.policy)
MODEL_FREE: dict[str, tuple[Algorithm, type[Any]]] = {"iql": (IQL, IQLConfig), "td3+bc": (TD3BC, TD3BCConfig)}
SINGLE_TASK = (*MODEL_FREE, "combo", "combo+meta-model")
"""Learners of one task from its log alone (the last: and the adapted model), in the order of tables."""


def budgeted(method: str, config: MerPOConfig) -> Settings:
    """Settings of a model-free rival with the budget of an adaptation by MerPO."""
    rac, kind = config.rac, MODEL_FREE[method][1]
    return kind(
        hidden=rac.critic_hidden, learning_rate=rac.actor_lr, batch=rac.batch, updates=config.adapt_updates, tau=rac.tau
    )


def adapt(
    method: str,
    learned: Learned,
    tasks: Sequence[TaskData],
    models: Callable[[], NewTasks],
    info: SetInfo,
    config: MerPOConfig,
    seeds: Sequence[int] = (0,),
    settings: Settings | None = None,
    report: Report = silent,
) -> tuple[Any, dict[str, Float[np.ndarray, "round seed task"]], Float[np.ndarray, "seed task checks"] | None]:
    """Policies with [seed, task] leaves, learning curves, and the model's hold-out errors where there is a model.

    `models` gives the tasks with the models adapted from the meta-model; only `combo+meta-model` asks.
    """
    if settings is not None and not (method in MODEL_FREE and type(settings) is MODEL_FREE[method][1]):
        raise ConfigError(
            f"settings: a {type(settings).__name__} does not belong to method={method!r}: expected a TD3BCConfig with"
            " 'td3+bc', an IQLConfig with 'iql', otherwise None."
        )
    if method in MODEL_FREE:
        chosen = settings or budgeted(method, config)
        algorithm = MODEL_FREE[method][0]
        shape = (len(seeds), len(tasks))
        data = stack([learned.preparation.task(t) for t in tasks])
        actor, curves = run(
            algorithm, data, every_job(seeds, len(tasks)), info.obs_dim, info.act_dim, info.gamma, chosen,
            batched(config.group, config.rac.critic_hidden), f"adapting ({method})", report,
        )  # fmt: skip
        actor = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), actor)
        return actor, {k: v.reshape(-1, *shape) for k, v in curves.items()}, None
    config = combo.objective(config)
    own = combo.scratch_models(learned, tasks, info, config, seeds, report) if method == "combo" else models()
    found = pipeline.adapt(learned, own, info, config, seeds, method, report)
    return found.actor, found.metrics, found.model_error
