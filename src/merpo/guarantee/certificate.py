"""The improvement certificate: is this policy better than what logged the data, and than the meta-policy?

The policy must have been learned from *other* episodes than those given here (`split_log`). On these, its return is
estimated (finite MDPs: fitted Q evaluation; continuous states: the policy's returns in systems drawn from what the log
leaves possible), today's by the logged returns themselves, and a lower confidence bound of the difference is formed.
Anything that makes the estimate untrustworthy is a reason to refuse, said in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from merpo.data import TaskData
from merpo.errors import ConfigError, DataError
from merpo.evaluation.features import OneHot
from merpo.evaluation.offpolicy import (
    Problem,
    Target,
    effective_sample_size,
    estimate_behaviour,
    fitted_q,
    importance_sampling,
    task_arrays,
)
from merpo.evaluation.posterior import Systems
from merpo.evaluation.stitched import rollouts
from merpo.guarantee.bounds import (
    CertificateConfig,
    Comparison,
    Scores,
    above,
    bernstein_lower,
    compare,
    lower_quantile,
)

Method = Literal["bootstrap", "concentration", "posterior"]


@dataclass(frozen=True)
class Certificate:
    """The answer, with everything it rests on."""

    task: str
    certified: bool
    """The lower bound over the behaviour policy is positive, and there is no reason to refuse."""
    confidence: float
    policy_return: float | None
    """Estimated return of the policy (null where the log allows no estimate)."""
    behaviour_return: float | None
    """Mean logged return of the held-back episodes (null where rewards are missing)."""
    over_behaviour: Comparison | None
    over_meta: Comparison | None
    """Against the meta-policy; null where none was given, and on continuous states where the policy has no support: a
    comparison would rest on guesses alone. It does not decide `certified`."""
    episodes: int
    """Held-back episodes."""
    transitions: int
    effective_transitions: float | None
    unsupported: float | None
    """Share of the policy's steps of which the log says too little."""
    reasons: tuple[str, ...] = ()
    """Why it was refused; empty when certified."""
    assumptions: tuple[str, ...] = field(default=())
    """What the certificate takes for granted."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Of the policy, where they were chosen from several by the same estimate on the learning part."""

    @property
    def sentence(self) -> str:
        """The answer in one plain sentence."""
        sure = f"{100 * self.confidence:g} % confidence"
        if self.certified and self.over_behaviour is not None:
            text = (
                f"{self.task}: this policy is better than what runs today, with {sure}: by at least"
                f" {self.over_behaviour.lower:.3g} per episode (estimated {self.over_behaviour.estimate:.3g}; today"
                f" {self.behaviour_return:.4g})"
            )
            if self.over_meta is not None:
                beyond = self.over_meta.lower > 0.0
                text += f", and {'also' if beyond else 'not provably'} better than the meta-policy"
            return text + "."
        return f"{self.task}: not certified, do not deploy it as it is: {'; '.join(self.reasons)}."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, `sentence` among them for people; what is not a finite number is null."""
        return {**{k: _plain(v) for k, v in asdict(self).items()}, "sentence": self.sentence}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Certificate:
        """What `to_json` gave. DataError if something is missing."""
        values = {k: v for k, v in data.items() if k != "sentence"}
        try:
            for name in ("over_behaviour", "over_meta"):
                values[name] = None if values[name] is None else Comparison(**values[name])
            for name in ("reasons", "assumptions"):
                values[name] = tuple(values[name])
            return Certificate(**values)
        except (KeyError, TypeError) as error:
            raise DataError(f"certificate: not what merpo writes ({error}). Certify again.") from error


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(v) for v in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x


def split_log(task: TaskData, config: CertificateConfig | None = None) -> tuple[TaskData, TaskData]:
    """(to learn from, to certify on): whole episodes, seeded. DataError for a log of one episode."""
    config = config or CertificateConfig()
    if task.episodes < 2:
        raise DataError(f"{task.name}: {task.episodes} episode; expected at least two to keep one from learning.")
    order = np.random.default_rng([config.seed, 11]).permutation(task.episodes)
    held = min(max(1, round(config.share * task.episodes)), task.episodes - 1)
    return task.select(sorted(order[held:].tolist())), task.select(sorted(order[:held].tolist()))


def choose(part: TaskData, targets: Sequence[Target], horizon: int, config: CertificateConfig | None = None) -> int:
    """Which candidate (other alpha, lambda, number of updates) to certify: an index, from the learning part alone.

    That of the largest lower bound over the behaviour, by the certificate's own estimate. Candidates were learned from
    the same episodes, so the bounds are optimistic, all of them; the certificate, on episodes kept apart, is not
    touched by the choice.
    """
    if not targets:
        raise ConfigError("targets is empty: expected at least one candidate.")
    config = config or CertificateConfig()
    if len(targets) == 1:
        return 0
    problem = Problem(part, horizon, config.discount)
    if not targets[0].discrete:
        systems = Systems(problem, part, config.seed)
        found = [systems.returns(target).returns for target in targets]
        return int(np.argmax([above(r, problem.returns, config).lower for r in found]))
    fitted = [fitted_q(problem, target, OneHot()) for target in targets]
    returns = problem.returns
    if part.episodes < 2:
        return int(np.argmax([f.value for f in fitted]))
    return int(np.argmax([compare(f.scores - returns, f.value - float(returns.mean()), config).lower for f in fitted]))


def certify(
    held: TaskData,
    target: Target,
    horizon: int,
    learned: TaskData,
    meta: Target | None = None,
    reward_std: float | None = None,
    config: CertificateConfig | None = None,
) -> Certificate:
    """Compare `target` with the policy that logged `held`, and with `meta`.

    `learned` is the part of the log that the policy came from: it sets the estimate's scales and is compared with
    `held`. `reward_std` is the deviation of single rewards in the training tasks, where known: another unit is refused.
    """
    config = config or CertificateConfig()
    problem = Problem(held, horizon, config.discount)
    reasons = _log_faults(held, learned, horizon, reward_std, config)
    if reasons:
        return replace(_blank(problem, config), reasons=tuple(reasons))
    judge = _judge_finite if target.discrete else _judge_smooth
    found = judge(problem, target, learned, meta, config)
    behaviour = found.over_behaviour
    assert behaviour is not None
    unsupported, effective = found.unsupported or 0.0, found.effective_transitions or 0.0
    allowed = config.most_unsupported if target.discrete else config.most_unknown
    if unsupported > allowed:
        reasons.append(
            f"no support: {100 * unsupported:.0f} % of the policy's steps lie where the log says too little"
            f" (at most {100 * allowed:g} % allowed)"
        )
    if target.discrete and effective < config.least_effective:
        reasons.append(
            f"no support: the estimate rests on {effective:.0f} effective transitions (at least"
            f" {config.least_effective:g} needed)"
        )
    if not behaviour.lower > 0.0:
        reasons.append(
            f"improvement not proven: estimated {behaviour.estimate:.3g} per episode, but the lower bound is"
            f" {behaviour.lower:.3g}; more episodes would narrow it"
        )
    reasons += found.reasons
    return replace(found, certified=not reasons, reasons=tuple(reasons))


def _blank(problem: Problem, config: CertificateConfig) -> Certificate:
    """Nothing said yet."""
    today, task = float(problem.returns.mean()), problem.task
    return Certificate(
        task.name, False, 1.0 - config.delta, None, today if np.isfinite(today) else None, None, None,
        task.episodes, len(task), None, None,
    )  # fmt: skip


def _judge_smooth(
    problem: Problem, target: Target, learned: TaskData, meta: Target | None, config: CertificateConfig
) -> Certificate:
    """Continuous states: the policy's returns in systems drawn from what the log leaves possible."""
    systems = Systems(problem, learned, config.seed)
    found = systems.returns(target)
    over_meta = None
    if meta is not None and found.unsupported <= config.most_unknown:
        # in the same systems, so that what is unknown of both cancels; the meta-policy's rewards are not capped
        over_meta = lower_quantile(found.returns - systems.returns(meta, capped=False).returns, config)
    return replace(
        _blank(problem, config),
        policy_return=found.value,
        over_behaviour=above(found.returns, problem.returns, config),
        over_meta=over_meta,
        effective_transitions=found.effective,
        unsupported=found.unsupported,
        assumptions=_assumptions("posterior"),
    )


def _judge_finite(
    problem: Problem, target: Target, learned: TaskData, meta: Target | None, config: CertificateConfig
) -> Certificate:
    """Finite MDPs: fitted Q, exact but for sampling, with a bootstrap or a concentration bound."""
    del learned
    fitted, held = fitted_q(problem, target, OneHot()), problem.task
    stitched = rollouts(problem, target, OneHot(), seed=config.seed)
    behaviour, method = _over_behaviour(problem, target, fitted.scores, fitted.value, config)
    over_meta, reasons, today = None, [], float(problem.returns.mean())
    if meta is not None:
        # with rewards negated twice, what the log does not know of the meta-policy counts in its favour
        t = held.transitions
        mirrored = replace(held, transitions=replace(t, reward=-np.asarray(t.reward)))
        other = fitted_q(Problem(mirrored, problem.horizon, config.discount), meta, OneHot())
        over_meta = compare(fitted.scores + other.scores, fitted.value + other.value, config)
    if behaviour.lower > 0.0 and stitched.value <= today:
        reasons.append(
            f"the two estimates disagree: fitted Q says {fitted.value:.4g}, stitched trajectories"
            f" {stitched.value:.4g}, today {today:.4g}"
        )
    return replace(
        _blank(problem, config),
        policy_return=float(fitted.value),
        over_behaviour=behaviour,
        over_meta=over_meta,
        effective_transitions=fitted.effective,
        unsupported=stitched.far,
        reasons=tuple(reasons),
        assumptions=_assumptions(method),
    )


def _over_behaviour(
    problem: Problem, target: Target, scores: Scores, value: float, config: CertificateConfig
) -> tuple[Comparison, Method]:
    """The bound that the log allows; chosen from its size and from the weights, never from the rewards' outcome.

    The concentration bound needs importance ratios (a stochastic policy) and so many episodes that its range term is
    below a twentieth of the range of returns; ratios are truncated, which only lowers the bound.
    """
    returns, n = problem.returns, problem.task.episodes
    plain = compare(scores - returns, value - float(returns.mean()), config)
    t = task_arrays(problem.task)
    span = float(np.ptp(t.reward)) * problem.horizon
    whole = bool((np.diff(problem.task.episode_start) == problem.horizon).all()) and problem.discount == 1.0
    width = 3.0 * span
    enough = 7.0 * width * np.log(2.0 / config.delta) / (3.0 * (n - 1)) < 0.05 * span if n > 1 else False
    if not (whole and enough):
        return plain, "bootstrap"
    least = float(t.reward.min())
    shifted = replace(problem.task, transitions=replace(problem.task.transitions, reward=t.reward - least))
    counted = Problem(shifted, problem.horizon)
    ratio = importance_sampling(counted, target, estimate_behaviour(problem.task, True))
    if effective_sample_size(ratio + 1e-12) < 0.02 * n:
        return plain, "bootstrap"
    difference = np.minimum(ratio, 2.0 * span) - counted.returns
    lower = bernstein_lower(difference, -span, 2.0 * span, config.delta)
    error = float(difference.std(ddof=1)) / np.sqrt(n)
    return Comparison(float(difference.mean()), lower, error, "concentration"), "concentration"


def _log_faults(
    held: TaskData, learned: TaskData, horizon: int, reward_std: float | None, config: CertificateConfig
) -> list[str]:
    """What forbids any estimate."""
    found = []
    if held.episodes < config.least_episodes:
        found.append(
            f"log too small: {held.episodes} episodes were kept from learning, at least {config.least_episodes} are"
            f" needed (a log of {int(np.ceil(config.least_episodes / config.share))})"
        )
    t = task_arrays(held)
    lengths = np.diff(held.episode_start)
    ended = t.terminated[held.episode_start[1:] - 1]
    if short := int(((lengths < horizon) & ~ended).sum()):
        found.append(f"{short} episodes stop before the horizon of {horizon} steps without having ended")
    reward = np.concatenate([t.reward, np.asarray(learned.transitions.reward, np.float64)])
    if not np.isfinite(reward).all():
        found.append("rewards that are not finite")
        return found
    spread = float(reward.std())
    if spread <= 1e-9 * max(float(np.abs(reward).max()), 1e-9):
        found.append("no signal: all rewards are equal")
        return found
    if reward_std is not None and reward_std > 0.0:
        factor = spread / reward_std
        if not 1.0 / config.scale_factor < factor < config.scale_factor:
            found.append(
                f"reward scale: the rewards spread {factor:.3g} times as much as in the training tasks; check their"
                " unit"
            )
    sizes = [np.abs(np.asarray(p.transitions.reward)[a:b]).mean() for p in (held, learned) for a, b in _spans(p)]
    low, high = np.quantile(sizes, [0.1, 0.9])
    if high > 20.0 * max(low, 1e-9 * high) and _two_groups(np.asarray(sizes, np.float64)):
        found.append(
            f"reward scale: the rewards of some episodes are {high / max(low, 1e-300):.0f} times as large as those of"
            " others; check their unit"
        )
    return found


def _spans(task: TaskData) -> list[tuple[int, int]]:
    return list(zip(task.episode_start[:-1].tolist(), task.episode_start[1:].tolist(), strict=True))


def _two_groups(sizes: Scores) -> bool:
    """Whether the sizes fall into two groups with an empty factor of five between them (sparse rewards do not)."""
    positive = np.sort(sizes[sizes > 0.0])
    return len(positive) > 0.9 * len(sizes) and bool((positive[1:] / positive[:-1]).max() > 5.0)


def _assumptions(method: Method) -> tuple[str, ...]:
    """What is taken for granted, for people."""
    reach = (
        "the observation is the whole state; its changes and the reward vary as smoothly elsewhere as in the log"
        " (Gaussian processes), and no step earns more than the best logged one"
        if method == "posterior"
        else "the observation is the whole state, one of finitely many"
    )
    interval = {
        "bootstrap": "the held-back episodes are enough for a bootstrap (asymptotic, not exact)",
        "concentration": "the behaviour policy as estimated by counting gives the true action probabilities",
        "posterior": "the spread over systems that agree with the log is a fair measure of what is not known",
    }[method]
    return (
        "the held-back episodes were logged by today's policy, independently of each other and of what was learned",
        "the task will stay as it was logged, and start as it did",
        reach,
        interval,
    )
