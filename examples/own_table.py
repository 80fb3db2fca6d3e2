"""From arrays in memory to a certified policy: python examples/own_table.py (some minutes).

Eight shuttles drive along a rail and should stop at a mark; their motors differ, and nobody measured by how much. What
`log` returns stands for reading one shuttle's log.
"""

from __future__ import annotations

import numpy as np

import merpo


def log(shuttle: int, trips: int, steps: int = 25) -> dict[str, np.ndarray]:
    """One shuttle's log: the steps of all trips one after another, driven by a slow and shaky controller."""
    rng = np.random.default_rng(shuttle)
    strength = 2.0 + shuttle  # what this motor makes of a volt
    rows = []
    for trip in range(trips):
        offset, speed = rng.uniform(-40, 40), 0.0
        for _ in range(steps):
            drive = np.clip(-0.15 * offset + rng.normal(0, 3), -12, 12)
            seen = offset, speed
            speed = 0.6 * speed + strength * drive + rng.normal()
            offset = offset + 0.1 * speed
            rows.append((*seen, drive, -abs(offset), trip))
    table = np.asarray(rows)
    return {"obs": table[:, :2], "action": table[:, 2:3], "reward": table[:, 3], "episode": table[:, 4]}


def main(trips: int = 40, config: merpo.MerPOConfig | None = None) -> merpo.Policy:
    """Learn from seven shuttles, adapt to the eighth, and say whether its policy is better than what it does today."""
    data = merpo.from_arrays(
        {f"shuttle-{i}": log(i, trips) for i in range(8)},
        family="shuttles",
        gamma=0.95,
        action_low=-12.0,
        action_high=12.0,
        test=["shuttle-3"],
    )
    print(merpo.data.check(data).render().splitlines()[-1])
    meta = merpo.MerPO(config, seed=0).fit(data.train)
    policy = meta.adapt(data.test[0])
    assert policy.certificate is not None
    print(policy.certificate.sentence)
    print("25 mm off the mark, at rest:", policy(np.array([25.0, 0.0])), "V")
    return policy


if __name__ == "__main__":
    main()
