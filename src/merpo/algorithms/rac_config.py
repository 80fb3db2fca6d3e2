"""Settings of RAC, the within-task learner (`merpo.algorithms.rac`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from merpo.errors import ConfigError, check_count, check_widths

BehaviourTerm = Literal["clone", "density", "dual"]
"""Kinds of D(pi, pi_beta) (`merpo.algorithms.divergences`)."""


@dataclass(frozen=True)
class RACConfig:
    """Settings of the within-task learner.

    >>> from dataclasses import replace
    >>> from merpo import RACConfig
    >>> replace(RACConfig(), alpha=0.2, rollout_length=3).alpha
    0.2
    >>> RACConfig(alpha=1.2)
    Traceback (most recent call last):
    merpo.errors.ConfigError: alpha=1.2: expected a number in [0, 1].
    """

    actor_hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the actor's hidden layers."""
    critic_hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of each critic's hidden layers."""
    critic_layer_norm: bool = True
    """Layer normalisation in the critics: bounds extrapolation beyond the data."""
    actor_lr: float = 3e-4
    """Adam step size of the actor."""
    critic_lr: float = 1e-3
    """Adam step size of the critics."""
    lr_final: float = 0.1
    """Both step sizes fall linearly to this share over the phase (meta-training or adaptation)."""
    gamma: float | None = None
    """Discount used in learning; None takes the data set's. A shorter horizon converges in fewer updates."""
    warmup: int = 0
    """Updates at the start of a phase in which the actor only follows its anchors, while fresh critics learn to
    evaluate it: improving on values that do not exist yet would only lead it astray. None in an adaptation whose
    critics start from the meta-critic."""
    batch: int = 256
    """Rows per update, real and imagined together."""
    real_fraction: float = 0.5
    """f of d_f = f D + (1 - f) model data."""
    tau: float = 0.005
    """Polyak rate of the target critics."""
    alpha: float = 0.4
    """Balance: 1 stays with the behaviour policy, 0 follows the meta-policy."""
    alpha_mode: Literal["fixed", "adaptive"] = "fixed"
    """`adaptive`: alpha follows the task's data, around `alpha`; see `merpo.algorithms.balance` (MerPO-Adp)."""
    alpha_gain: float = 4.0
    """How far an adaptive alpha goes for the same evidence."""
    behaviour: BehaviourTerm = "clone"
    """D(pi, pi_beta): the log's own likelihood, KL from a cloned behaviour policy, or a variational KL."""
    one_scale: bool = False
    """Both divergences of one kind, in nats, on the same states, so that alpha is their mixing weight: see
    `divergences.meta_term`."""
    ratio_lr: float = 1e-3
    """Adam step size of c(s, a), the log-ratio that the `dual` divergence learns."""
    ratio_penalty: float = 5.0
    """Weight of the penalty on c's slopes."""
    ratio_slope: float = 10.0
    """Slope of c, in nats per unit of prepared action, that goes unpunished; limits how narrow a behaviour is seen."""
    lam: float = 0.1
    """lambda, the weight of both divergences on the normalised value scale (the start of it with `lam_mode="dual"`)."""
    lam_mode: Literal["fixed", "dual"] = "fixed"
    """`dual`: lambda by dual ascent until alpha D(pi, pi_beta) + (1 - alpha) KL(pi || pi_c) = `lam_target`."""
    lam_target: float = 0.08
    """Divergence, in nats per action dimension, that dual ascent aims at."""
    lam_lr: float = 5e-3
    """Step of dual ascent on log lambda; 0 holds lambda and still logs the divergence."""
    lam_range: tuple[float, float] = (1e-5, 1e2)
    """Bounds of lambda under dual ascent."""
    beta: float = 0.1
    """Conservatism: weight of the push-down in standard deviations of the reward."""
    beta_mode: Literal["fixed", "dual"] = "fixed"
    """`dual`: beta, from `beta` on, by dual ascent until the gap is `beta_target`, as in CQL's Lagrange form."""
    beta_target: float = 0.1
    """Gap that dual ascent allows: push - E_D[Q] in units of the value scale."""
    beta_lr: float = 5e-3
    """Step of dual ascent on log beta."""
    beta_range: tuple[float, float] = (1e-2, 1e1)
    """Bounds of beta under dual ascent."""
    pushdown: Literal["policy", "logsumexp"] = "policy"
    """What is pushed down on imagined states: Q at an action of pi, or CQL's soft maximum of Q over all actions."""
    logsumexp_gradient: Literal["full", "sampled"] = "full"
    """`sampled`: the gradient of one action drawn from the softmax, unbiased and far cheaper."""
    logsumexp_temperature: float = 1.0
    """Softness of the soft maximum, in standard deviations of the reward: small for the maximum itself."""
    targets: Literal["min", "mixed"] = "min"
    """The pair's value in Bellman targets: the smaller, or 0.75 of the smaller plus 0.25 of the larger."""
    temperature: float = 1e-3
    """Starting SAC temperature on the normalised value scale."""
    target_entropy: float = -1.0
    """SAC's entropy target, per action dimension; the temperature follows it by dual ascent."""
    temperature_lr: float = 1e-3
    """Step of dual ascent on the log temperature."""
    rollout_length: int = 5
    """Steps of each imagined rollout; 0: nothing is imagined, and logged rows stand in for model data too."""
    explore: float = 0.0
    """Share of imagined steps whose action is drawn uniformly. A policy at the bounds of its actions never imagines
    another one, and so never learns that another has become better on the way."""
    rollout_rows: int = 500
    """Start states per imagination and task; a multiple of the elites."""
    imagine_every: int = 250
    """Updates between two imaginations."""
    buffer: int = 20_000
    """Imagined transitions kept per task."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("alpha", 0.0, 1.0),
            ("lr_final", 0.0, 1.0),
            ("real_fraction", 0.0, 1.0),
            ("explore", 0.0, 1.0),
            ("tau", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}={value}: expected a number in [{low:g}, {high:g}].")
        if self.gamma is not None and not 0.0 <= self.gamma < 1.0:
            raise ConfigError(f"gamma={self.gamma}: expected a discount in [0, 1), or None for the data set's own.")
        for name in ("lam", "beta", "temperature", "ratio_penalty", "ratio_slope"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)}: expected a finite weight >= 0.")
        for name in ("actor_lr", "critic_lr", "lam_lr", "temperature_lr", "ratio_lr", "beta_lr"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a step size in [0, 1), e.g. 1e-3.")
        if self.buffer < self.rollout_rows * self.rollout_length:
            raise ConfigError(
                f"buffer={self.buffer}: expected at least rollout_rows * rollout_length = "
                f"{self.rollout_rows * self.rollout_length}, one imagination. Enlarge it."
            )
        for name in ("batch", "rollout_rows", "imagine_every", "buffer"):
            check_count(name, getattr(self, name))
        check_count("rollout_length", self.rollout_length, least=0)
        for name in ("actor_hidden", "critic_hidden"):
            check_widths(name, getattr(self, name))
        check_count("warmup", self.warmup, least=0)
        if not 1 <= self.real_rows < self.batch:
            raise ConfigError(
                f"real_fraction={self.real_fraction} of batch={self.batch} leaves no real or no imagined row: "
                "choose a fraction strictly between."
            )
        for name in ("lam_range", "beta_range"):
            if not 0.0 < getattr(self, name)[0] < getattr(self, name)[1] < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)}: expected 0 < low < high.")
        for name in ("lam_target", "beta_target", "target_entropy"):
            if not abs(getattr(self, name)) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)}: expected a finite number.")
        for name in ("logsumexp_temperature", "alpha_gain"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)}: expected a finite number > 0.")
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                known = " or ".join(map(repr, get_args(hint)))
                raise ConfigError(f"{name}={getattr(self, name)!r}: expected {known}.")

    @property
    def real_rows(self) -> int:
        """Real rows of each batch."""
        return round(self.real_fraction * self.batch)
