"""Settings of meta-training and adaptation (`merpo.algorithms.merpo`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import get_args

from merpo import precision
from merpo.algorithms.rac_config import BehaviourTerm, RACConfig
from merpo.dynamics.ensemble import DynamicsConfig
from merpo.errors import LARGEST_WIDTH, ConfigError, check_count, check_group


@dataclass(frozen=True)
class MerPOConfig:
    """Settings of meta-training and adaptation."""

    rac: RACConfig = field(default_factory=RACConfig)
    """The within-task learner."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """The ensemble and the proximal meta-model."""
    train_updates: int = 10_000
    """RAC updates of every training task."""
    adapt_updates: int = 5_000
    """RAC updates of a new task."""
    full_log: int = 0
    """Rows of a log that is worth all of `adapt_updates` to MerPO: a smaller one has its share of them, or the policy
    learns its noise by heart (`updates_for`); 0: all logs have all."""
    adapt_behaviour: BehaviourTerm | None = None
    """`rac.behaviour` of new tasks; None: as in meta-training."""
    meta_every: int = 10
    """RAC updates between two visits to the meta-policy and meta-critic."""
    meta_steps: int = 5
    """Gradient steps of both per visit."""
    meta_lr: float = 1e-3
    """Adam step size of both."""
    meta_ramp: float = 0.5
    """Share of meta-training over which KL(pi || pi_c) grows to its full weight; adaptation has it from the start."""
    meta_batch: int = 64
    """Real states per task and step of both (all jobs of a seed share one gradient)."""
    meta_rows: int = 1280
    """Real states per step of all tasks together, at most: where there are many, each gives fewer."""
    context: int = 0
    """Length of z in pi_c(a | s, z) and in the meta-critic, read off each task's model; 0: they see no task."""
    context_outside: bool = True
    """Take a new task's z as it is, up to three deviations; else the nearest in the box of the training tasks' z:
    what meta-policy and meta-critic say beyond, nobody has taught them."""
    warm_critic: bool = True
    """Start a new task's critics from the meta-critic (else from random ones)."""
    tasks_per_iteration: int = 16
    """Tasks per outer iteration of the meta-model (all of them where there are fewer)."""
    bc_updates: int = 2_000
    """Gradient steps of behaviour cloning: the baseline, and the floor of the clone term under dual ascent."""
    guard_steps: int = 0
    """Imagined steps over which an adapted policy is compared with the clone of the behaviour, which takes its place
    where it would surely do better (`merpo.algorithms.guard`); 0: it is not compared."""
    combo_beta: float | None = None
    """Conservatism of the rival COMBO, whom nothing else holds to the log; None: `rac.beta`."""
    group: int | None = None
    """Jobs batched by `vmap` inside one step; groups follow one another (`lax.map`). None: what suits the device, on
    a CPU 1 for wide networks and a handful for narrow ones, on an accelerator all of them. A limit saves memory."""
    matmul_precision: precision.Precision = "default"
    """Factors of matrix products in learning: `tf32` or `bf16` for speed on GPUs that have them, `highest` for full
    float32 there; `default` is JAX's own choice for the device. A CPU always computes in float32."""

    def __post_init__(self) -> None:
        precision.check(self.matmul_precision)
        counts = ("train_updates", "adapt_updates", "meta_every", "meta_steps", "meta_batch", "meta_rows", "bc_updates")
        for name in (*counts, "tasks_per_iteration"):
            check_count(name, getattr(self, name))
        for name in ("guard_steps", "full_log"):
            check_count(name, getattr(self, name), least=0)
        if self.adapt_behaviour not in (None, *get_args(BehaviourTerm)):
            known = ", ".join(map(repr, get_args(BehaviourTerm)))
            raise ConfigError(f"adapt_behaviour={self.adapt_behaviour!r}: expected {known}, or none for rac.behaviour.")
        check_group(self.group)
        if not 0.0 < self.meta_lr < 1.0:
            raise ConfigError(f"meta_lr={self.meta_lr}: expected a step size in (0, 1), e.g. 1e-3.")
        if self.combo_beta is not None and not 0.0 <= self.combo_beta < math.inf:
            raise ConfigError(f"combo_beta={self.combo_beta}: expected a weight >= 0, e.g. 5, or none for rac.beta's.")
        if not 0.0 <= self.meta_ramp <= 1.0:
            raise ConfigError(f"meta_ramp={self.meta_ramp}: expected a share in [0, 1].")
        if not 0 <= self.context <= LARGEST_WIDTH:
            raise ConfigError(f"context={self.context}: expected a length >= 0, where 0 stands for no context.")
        if self.rac.imagine_every % self.meta_every:
            raise ConfigError(
                f"meta_every={self.meta_every}: expected a divisor of rac.imagine_every={self.rac.imagine_every}."
            )
        if self.rac.rollout_rows % self.dynamics.elites:
            raise ConfigError(
                f"rac.rollout_rows={self.rac.rollout_rows}: expected a multiple of dynamics.elites="
                f"{self.dynamics.elites}, since start states are dealt evenly among the elites."
            )
        for name in ("train_updates", "adapt_updates"):
            if getattr(self, name) % self.rac.imagine_every:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: expected a multiple of rac.imagine_every={self.rac.imagine_every}."
                )

    def adapting(self, method: str) -> MerPOConfig:
        """These settings as an adaptation by `method` has them: merpo, rac, or one whose own they are already."""
        rac = self.rac
        if self.adapt_behaviour is not None:
            rac = replace(rac, behaviour=self.adapt_behaviour)
        if method == "rac":  # there is nothing to balance
            rac = replace(rac, alpha_mode="fixed")
        if method == "merpo" and self.warm_critic:  # these critics have values to begin with
            rac = replace(rac, warmup=0)
        return replace(self, rac=rac)

    def updates_for(self, rows: int) -> int:
        """RAC updates of MerPO's adaptation to a log of so many rows: the share of `adapt_updates` that it is of
        `full_log`, rounded up to whole rounds of imagination."""
        if rows >= self.full_log:
            return self.adapt_updates
        every = self.rac.imagine_every
        return every * -(-self.adapt_updates * rows // (self.full_log * every))

    def meta_states(self, tasks: int) -> int:
        """Real states that each of so many tasks gives to a step of the meta-policy and the meta-critic."""
        return min(self.meta_batch, -(-self.meta_rows // tasks))
