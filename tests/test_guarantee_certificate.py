"""The certificate: what it grants, what it refuses and why, and the bounds it rests on."""

import json
from dataclasses import replace

import numpy as np
import pytest

import tabular
from merpo.errors import ConfigError, DataError
from merpo.evaluation.offpolicy import Target
from merpo.guarantee.certificate import (
    Certificate,
    CertificateConfig,
    bernstein_lower,
    certify,
    choose,
    compare,
    split_log,
)

H = 8
QUICK = CertificateConfig(resamples=400)


def target_of(pi):
    return Target(lambda obs: obs @ pi, discrete=True)


def ranked(seed=0):
    """An MDP, its behaviour, and the best and worst of its deterministic policies."""
    mdp, behaviour = tabular.small_mdp(seed)
    every = [np.eye(2)[[i >> k & 1 for k in range(4)]] for i in range(16)]
    every.sort(key=lambda pi: tabular.exact(mdp, pi, H))
    return mdp, behaviour, every[-1], every[0]


def halves(task):
    return split_log(task, QUICK)


def test_a_better_policy_is_certified_and_a_worse_one_is_not():
    mdp, behaviour, best, worst = ranked()
    part, held = halves(tabular.log(mdp, behaviour, 60, H, 1))
    good = certify(held, target_of(best), H, part, target_of(worst), config=QUICK)
    gain = tabular.exact(mdp, best, H) - tabular.exact(mdp, behaviour, H)
    assert good.certified
    assert not good.reasons
    assert 0.0 < good.over_behaviour.lower < gain
    assert good.over_meta.lower > good.over_behaviour.lower
    assert good.policy_return == pytest.approx(tabular.exact(mdp, best, H), rel=0.1)
    assert "better than what runs today" in good.sentence
    assert "95 % confidence" in good.sentence
    assert len(good.assumptions) == 4
    bad = certify(held, target_of(worst), H, part, config=QUICK)
    assert not bad.certified
    assert bad.over_behaviour.lower < 0.0
    assert "not proven" in bad.sentence
    assert "do not deploy" in bad.sentence


def test_todays_policy_itself_is_rarely_certified():
    """No better than itself: certified with a probability of about delta = 0.05 at most."""
    mdp, behaviour, _, _ = ranked()
    wrong = 0
    for seed in range(40):
        part, held = halves(tabular.log(mdp, behaviour, 40, H, seed))
        wrong += certify(held, target_of(behaviour), H, part, config=QUICK).certified
    assert wrong <= 6  # P(more) = 0.003 at a rate of 0.05


def test_a_certificate_survives_json():
    mdp, behaviour, best, worst = ranked()
    part, held = halves(tabular.log(mdp, behaviour, 40, H, 1))
    for made in (
        certify(held, target_of(best), H, part, target_of(worst), config=QUICK),
        certify(held.select([0, 1]), target_of(best), H, part, config=QUICK),
    ):
        assert Certificate.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False))) == made
    with pytest.raises(DataError, match="certificate"):
        Certificate.from_json({"task": "x"})


def test_reasons_for_refusal_are_named():
    mdp, behaviour, best, _ = ranked()
    task = tabular.log(mdp, behaviour, 40, H, 1)
    part, held = halves(task)
    t = task.transitions

    def reasons(changed, reward_std=None):
        a, b = halves(changed)
        made = certify(b, target_of(best), H, a, reward_std=reward_std, config=QUICK)
        assert not made.certified
        assert made.sentence.count("not certified") == 1
        return "; ".join(made.reasons)

    std = float(np.std(t.reward))
    assert "log too small: 4 episodes" in reasons(task.select(range(8)))
    hundred = replace(task, transitions=replace(t, reward=t.reward * np.float32(100.0)))
    assert "reward scale: the rewards spread 100 times" in reasons(hundred, std)
    mixed = np.where(np.repeat(np.arange(40) % 2 == 0, H), 1.0, 100.0).astype(np.float32)
    assert "some episodes" in reasons(replace(task, transitions=replace(t, reward=(t.reward + 0.5) * mixed)))
    assert "no signal" in reasons(replace(task, transitions=replace(t, reward=0 * t.reward + 1)))
    broken = t.reward.copy()
    broken[3] = np.nan
    assert "not finite" in reasons(replace(task, transitions=replace(t, reward=broken)))
    short = task.select(range(40))
    assert "stop before the horizon" in "; ".join(certify(held, target_of(best), H + 1, part, config=QUICK).reasons)
    # the same log in its own unit is fine
    assert certify(halves(short)[1], target_of(best), H, part, reward_std=std, config=QUICK).certified


def test_a_policy_that_leaves_the_log_is_not_certified():
    mdp, _, _, _ = ranked()
    only = np.eye(2)[[0, 0, 0, 0]]
    part, held = halves(tabular.log(mdp, only, 60, H, 2))
    made = certify(held, target_of(1 - only), H, part, config=QUICK)
    assert not made.certified
    assert any(r.startswith("no support") for r in made.reasons)
    assert made.unsupported == 1.0


def test_large_logs_get_a_concentration_bound():
    mdp, behaviour = tabular.small_mdp(0, states=2)
    best = max((np.eye(2)[[i, j]] for i in (0, 1) for j in (0, 1)), key=lambda pi: tabular.exact(mdp, pi, 3))
    pi = 0.5 * behaviour + 0.5 * best
    task = tabular.log(mdp, behaviour, 1400, 3, 1)
    part, held = task.select(range(700)), task.select(range(700, 1400))
    made = certify(held, target_of(pi), 3, part, config=QUICK)
    assert made.over_behaviour.method == "concentration"
    gain = tabular.exact(mdp, pi, 3) - tabular.exact(mdp, behaviour, 3)
    assert made.over_behaviour.lower < gain
    assert made.over_behaviour.estimate == pytest.approx(gain, abs=5 * made.over_behaviour.standard_error)


def test_the_bounds_cover_what_they_say():
    rng = np.random.default_rng(0)
    above = {"bootstrap": 0, "bernstein": 0}
    for _ in range(300):
        x = rng.exponential(1.0, 30) - 1.0  # skewed, mean 0
        above["bootstrap"] += compare(x, float(x.mean()), QUICK).lower > 0.0
        y = rng.integers(0, 2, 200).astype(np.float64)
        above["bernstein"] += bernstein_lower(y, 0.0, 1.0, 0.05) > 0.5
    assert above["bootstrap"] <= 0.1 * 300
    assert above["bootstrap"] >= 1  # and it is not vacuous
    assert above["bernstein"] <= 0.05 * 300
    # Maurer and Pontil, theorem 4, by hand for 0, 1, 1, 0: mean 1/2, sample variance 1/3
    by_hand = 0.5 - np.sqrt(2 * (1 / 3) * np.log(40) / 4) - 7 * np.log(40) / 9
    assert bernstein_lower(np.array([0.0, 1.0, 1.0, 0.0]), 0.0, 1.0, 0.05) == pytest.approx(by_hand)


def test_the_split_keeps_whole_episodes_apart():
    mdp, behaviour, _, _ = ranked()
    task = tabular.log(mdp, behaviour, 11, H, 1)
    tagged = replace(
        task, transitions=replace(task.transitions, reward=np.repeat(np.arange(11.0), H).astype(np.float32))
    )
    part, held = split_log(tagged)
    seen = [set(np.unique(x.transitions.reward)) for x in (part, held)]
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 11
    again = split_log(tagged)
    np.testing.assert_array_equal(again[0].transitions.reward, part.transitions.reward)
    with pytest.raises(DataError, match="at least two"):
        split_log(task.select([0]))
    with pytest.raises(ConfigError, match="delta"):
        CertificateConfig(delta=0.0)
    with pytest.raises(ConfigError, match="least_episodes"):
        CertificateConfig(least_episodes=1)


def test_the_candidate_that_the_log_prefers_is_chosen():
    mdp, behaviour, best, worst = ranked()
    part = tabular.log(mdp, behaviour, 30, H, 1)
    candidates = [target_of(worst), target_of(behaviour), target_of(best)]
    assert choose(part, candidates, H, QUICK) == 2
    assert choose(part, candidates[:2], H, QUICK) == 1
    assert choose(part.select([0]), candidates, H, QUICK) in (0, 1, 2)
    with pytest.raises(ConfigError, match="targets"):
        choose(part, [], H, QUICK)
