"""Context learners on the training tasks, and what they make of a new task's log: no gradient step is taken on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.presets import SMALL
from merpo.algorithms.rivals import cbcq, csro, encoders, focal, mbml, pearl, unicorn
from merpo.algorithms.rivals.bcq import BCQConfig
from merpo.algorithms.rivals.brac import BRACConfig
from merpo.algorithms.rivals.cbcq import CbcqConfig
from merpo.algorithms.rivals.csro import CsroConfig
from merpo.algorithms.rivals.encoders import Conditioned, ContextConfig
from merpo.algorithms.rivals.focal import FocalConfig
from merpo.algorithms.rivals.mbml import MbmlConfig, TeacherConfig
from merpo.algorithms.rivals.pearl import PearlConfig
from merpo.algorithms.rivals.running import Algorithm, run, seed_jobs
from merpo.algorithms.rivals.sac import SACConfig
from merpo.algorithms.rivals.unicorn import UnicornConfig
from merpo.algorithms.rounds import Report, silent
from merpo.data.prepare import Preparation
from merpo.data.types import SetInfo, TaskData, Transitions, stack
from merpo.devices import batched

Settings = FocalConfig | PearlConfig | CbcqConfig | MbmlConfig


def _algorithm(name: str, module: Any) -> Algorithm:
    return Algorithm(name, module.init, encoders.draw, module.update, module.learned)


CONTEXT: dict[str, tuple[Algorithm, type[Any]]] = {
    "pearl": (_algorithm("pearl", pearl), PearlConfig),
    "cbcq": (_algorithm("cbcq", cbcq), CbcqConfig),
    "mbml": (Algorithm("mbml", mbml.init, mbml.draw, mbml.update, mbml.learned), MbmlConfig),
    "focal": (_algorithm("focal", focal), FocalConfig),
    "csro": (_algorithm("csro", csro), CsroConfig),
    "unicorn": (_algorithm("unicorn", unicorn), UnicornConfig),
}
"""Context learners, in the order of tables."""
CONFIGS: tuple[type[Any], ...] = tuple(kind for _, kind in CONTEXT.values())


def budgeted(method: str, config: MerPOConfig) -> Settings:
    """The paper's settings with MerPO's budget: its widths, rows, step sizes, Polyak rate, and as many updates as a
    task gets from it in meta-training and adaptation together. z has 5 numbers in small systems, else 20."""
    rac, width = config.rac, config.rac.critic_hidden
    context = ContextConfig(
        latent=5 if max(width) <= max(SMALL.rac.critic_hidden) else 20,
        hidden=(max(width),) * 3,
        learning_rate=rac.actor_lr,
        batch=-(-rac.batch // 4),  # of each of 16 tasks: four times the rows of an update of RAC
    )
    base = SACConfig(hidden=width, learning_rate=rac.actor_lr, tau=rac.tau)
    updates = config.train_updates + config.adapt_updates
    if method == "pearl":
        return PearlConfig(context, base, updates=updates)
    if method == "cbcq":
        agent = BCQConfig(width, width, learning_rate=rac.critic_lr, tau=rac.tau)
        return CbcqConfig(context, agent, updates=updates)
    if method == "mbml":
        agent = BCQConfig(width, width, learning_rate=rac.critic_lr, tau=rac.tau)
        teacher = TeacherConfig(agent, rac.batch, config.train_updates)
        return MbmlConfig(context, teacher, config.dynamics, updates=config.adapt_updates, group=config.group)
    # the paper's c learns at a third of the step size of the actor
    divergence = replace(BRACConfig(sac=base), divergence_lr=rac.actor_lr / 3.0)
    kind: type[FocalConfig] = CONTEXT[method][1]
    return kind(context, divergence, updates=updates)


def fit(
    method: str,
    tasks: Sequence[TaskData],
    info: SetInfo,
    preparation: Preparation,
    config: Settings,
    seeds: Sequence[int] = (0,),
    report: Report = silent,
) -> tuple[Conditioned, dict[str, Float[np.ndarray, "round seed 1"]]]:
    """Learn from the training tasks, all seeds side by side: what adaptation needs, [seed] leaves, and the curves."""
    ready = [preparation.task(t) for t in tasks]
    if isinstance(config, MbmlConfig):
        data: Any = mbml.teach(ready, info, config, seeds, report)
    else:
        data = stack(ready)
    learned, curves = run(
        CONTEXT[method][0], data, seed_jobs(seeds), info.obs_dim, info.act_dim, info.gamma, config,
        batched(config.group, config.context.hidden), f"meta-training ({method})", report,
    )  # fmt: skip
    return learned, {k: v[..., None] for k, v in curves.items()}


@eqx.filter_jit
def _given(learned: Conditioned, data: Transitions, size: Int[Array, " task"], gamma: float) -> Any:
    context = encoders.features(data, gamma)
    valid = jnp.arange(context.shape[1])[None] < size[:, None]

    def of_seed(one: Conditioned) -> Any:
        return jax.lax.map(lambda args: one(*args), (context, valid))

    return jax.vmap(of_seed)(learned)


def adapt(learned: Conditioned, tasks: Sequence[TaskData], info: SetInfo, preparation: Preparation) -> Any:
    """Policies with [seed, task] leaves: z is read off each task's whole log."""
    stacked = stack([preparation.task(t) for t in tasks])
    return _given(learned, stacked.transitions, stacked.size, info.gamma)
