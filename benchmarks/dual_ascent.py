"""Where dual ascent takes lambda and beta, and what it does to returns, beside fixed ones.

    python benchmarks/dual_ascent.py DATA [--tasks 30] [--train-updates N] [--adapt-updates N] [--seed 0]
        [--set '{"fixed": {}, "dual": {"lam_mode": "dual"}}'] [--out results/dual]

MerPO is meta-trained on the first `--tasks` training tasks of DATA (family/quality, 50 episodes per task) and adapted
to its test tasks, once for every entry of `--set`: a name, and settings of `rac` that differ from the defaults for the
data. A fixed lambda is run as dual ascent with a step of zero, so that the divergence is measured there too. Written
per entry, at quarters of both phases: lambda (median, least, greatest over tasks), beta, the divergence per action
dimension, the gap in units of the value scale; and the mean returns of the logged behaviour, the meta-policy and MerPO.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import merpo
from merpo.algorithms.presets import default_config
from merpo.evaluation import evaluate_policies, task_id
from merpo.files import write_atomic
from merpo.tasks import get_family

DEFAULT = {"fixed": {"lam_mode": "dual", "lam_lr": 0.0}, "dual": {"lam_mode": "dual"}}


def quarters(curves: dict[str, Any]) -> dict[str, list[Any]]:
    """Figures at 1/4, 1/2, 3/4 and the end of a phase; `curves` are [round, seed, task]."""
    rounds = len(curves["rac/lambda"])
    at = [max(1, round(rounds * q)) - 1 for q in (0.25, 0.5, 0.75, 1.0)]

    def spread(x: np.ndarray) -> list[float]:
        return [float(f"{f(x):.4g}") for f in (np.median, np.min, np.max)]

    gap = curves["critic/gap"] / curves["rac/value_scale"]
    shown = {"lambda": curves["rac/lambda"], "gap": gap, "value_scale": curves["rac/value_scale"]}
    names = {"divergence": "rac/divergence", "beta": "rac/beta", "kl_meta": "actor/kl_meta"}
    shown |= {k: curves[v] for k, v in names.items() if v in curves}
    return {k: [spread(v[i]) for i in at] for k, v in shown.items()}


def main() -> None:
    """Run every entry and write one JSON file per data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--train-updates", type=int)
    parser.add_argument("--adapt-updates", type=int)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", type=json.loads, default=DEFAULT, dest="entries")
    parser.add_argument("--out", type=Path, default=Path("results/dual"))
    options = parser.parse_args()

    data = merpo.load(options.data)
    train = data.train.tasks[: options.tasks]
    family, ids = get_family(data.info.family), [task_id(t.name) for t in data.test]
    logged = float(np.mean([t.returns().mean() for t in data.test]))
    updates = {"train_updates": options.train_updates, "adapt_updates": options.adapt_updates}
    base = replace(default_config(data.info, data.train.tasks), **{k: v for k, v in updates.items() if v is not None})
    path = options.out / (options.data.replace("/", "-") + ".json")
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    for name, settings in options.entries.items():
        config = replace(base, rac=replace(base.rac, **settings))
        meta = merpo.MerPO(config, seed=options.seed).fit(replace(data, tasks=train))
        models = meta.adapt_models(data.test)
        sets = {m: meta.adapt_many(data.test, m, models=models) for m in ("meta-policy", "merpo")}
        returns = {
            m: float(np.mean(evaluate_policies(family, s.act(options.seed), ids, options.episodes, 0)))
            for m, s in sets.items()
        }
        found[name] = {
            "settings": settings, "lam": config.rac.lam, "alpha": config.rac.alpha, "beta": config.rac.beta,
            "train_updates": config.train_updates, "adapt_updates": config.adapt_updates, "tasks": len(train),
            "seed": options.seed, "returns": {"behaviour": logged, **returns},
            "meta-training": quarters(meta.curves or {}), "adaptation": quarters(sets["merpo"].curves or {}),
        }  # fmt: skip
        print(name, json.dumps(found[name], indent=None))
        found["made_with"] = {"merpo": merpo.__version__, "python": platform.python_version()}
        write_atomic(path, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
