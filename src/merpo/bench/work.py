"""What is computed: one meta-training, and one cell. The same bytes wherever and in whatever order they are run."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from merpo import devices
from merpo.algorithms.pipeline import Learned
from merpo.algorithms.rounds import Report, silent
from merpo.algorithms.threads import cores
from merpo.api import MerPO, Meta, unlearned
from merpo.bench.plan import Cell, Fit
from merpo.data import Preparation
from merpo.dynamics.ensemble import fit_scale
from merpo.evaluation import evaluate_policies, task_id
from merpo.inputs import training_tasks
from merpo.policies import PolicySet
from merpo.rivals import ContextLearner, ContextMeta
from merpo.runs import Checkpoints, versions
from merpo.tasks import family_of

CELL_FORMAT, CELL_VERSION = "merpo-cell", 1
START_SEED = 0
"""Seed of the simulated episodes' first states: the same for every cell."""
Learner = Meta | ContextMeta
"""What has been learned, ready to be given new tasks."""


@dataclass(frozen=True)
class Done:
    """A finished piece of work as it is stored."""

    content: bytes
    """The same whenever it is done again."""
    timing: bytes
    """How long that took, and on what: never the same twice."""
    seconds: float


class Workshop:
    """Does pieces of work one after another, and remembers what the next one may need again.

    Where a folder for the state is given, it is saved there about every `every` seconds.
    """

    def __init__(self, every: float = 60.0) -> None:
        self._every = every
        self._models: tuple[Any, Any] | None = None
        self._learned: tuple[str, Learner] | None = None

    def fit(self, fit: Fit, state: Path | None = None, report: Report = silent) -> Done:
        """Meta-train; with `state`, a folder, killed work is taken up from there."""

        def work(states: Checkpoints | None) -> bytes:
            train = fit.logs.load()
            learned: Learner
            if fit.learner == "merpo":
                learned = MerPO(fit.config, seed=fit.seed).fit(train, checkpoint=states, report=report)
            else:
                learned = ContextLearner(fit.learner, fit.config, seed=fit.seed).fit(train, report=report)
            return _bytes_of(learned)

        return _timed(work, None if state is None else Checkpoints(state, self._every))

    def cell(self, cell: Cell, learned: bytes | None, state: Path | None = None, report: Report = silent) -> Done:
        """Adapt and simulate; `learned` is the content of its fit, where it has one."""

        def work(states: Checkpoints | None) -> bytes:
            tasks = cell.test.load()
            policies = self._policies(cell, self._taken(cell, learned), tasks, states, report)
            ids = [task_id(t.name) for t in tasks]
            returns = evaluate_policies(family_of(tasks.info), policies.act(cell.seed), ids, cell.starts, START_SEED)
            known = all({"random", "expert"} <= set(t.reference) for t in tasks)
            content = {
                "format": CELL_FORMAT,
                "format_version": CELL_VERSION,
                "hash": cell.hash,
                "identity": cell.identity,
                "train_tasks": len(cell.train.load()),
                "tasks": [t.name for t in tasks],
                "mean": returns.mean(-1).tolist(),
                "returns": returns.tolist(),
                "behaviour": [float(t.returns().mean()) for t in tasks],
                "random": [t.reference["random"] for t in tasks] if known else None,
                "expert": [t.reference["expert"] for t in tasks] if known else None,
            }
            return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()

        return _timed(work, None if state is None else Checkpoints(state, self._every))

    def _taken(self, cell: Cell, content: bytes | None) -> Learner:
        fit = cell.fit
        if fit is None:
            return units_only(cell)
        if self._learned is None or self._learned[0] != fit.hash:
            assert content is not None
            kind: type[Any] = Meta if fit.learner == "merpo" else ContextMeta
            self._learned = (fit.hash, _read(kind, content, fit.config))
        return self._learned[1]

    def _policies(
        self, cell: Cell, learned: Learner, tasks: Any, states: Checkpoints | None, report: Report
    ) -> PolicySet:
        if isinstance(learned, ContextMeta):
            return learned.adapt_many(tasks)
        fit, models = cell.fit, None
        if fit is not None:
            key = (fit.hash, cell.test)
            if self._models is None or self._models[0] != key:
                self._models = (key, learned.adapt_models(tasks, checkpoint=states, report=report))
            models = self._models[1]
        return learned.adapt_many(
            tasks, cell.method, models=models, settings=cell.own, checkpoint=states, report=report
        )


def units_only(cell: Cell) -> Meta:
    """What a learner of single tasks has from the training tasks: units and their scale. Nothing is learned, so the
    networks are blank."""
    used = training_tasks(cell.train.load(), cell.config.rac.gamma, "error")
    ready = Preparation.fit(used)
    flat = [ready.task(t).transitions for t in used]
    scale = fit_scale(jax.tree.map(lambda *x: jnp.concatenate([jnp.asarray(v) for v in x]), *flat))
    shapes = eqx.filter_eval_shape(lambda: unlearned(used.info, cell.config, (cell.seed,)))
    blank = jax.tree.map(_zeros, shapes)
    learned = Learned(blank.meta_model, blank.meta_actor, blank.meta_critic, blank.context, scale, ready)
    return Meta(learned, used.info, cell.config, (cell.seed,))


def _zeros(x: Any) -> Any:
    return jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x


def machine() -> dict[str, Any]:
    """What the numbers of time belong to: the processor's name, the cores of this process, versions of packages."""
    return {"cpu": _processor(), "cores": cores(), **versions()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _timed(work: Callable[[Checkpoints | None], bytes], states: Checkpoints | None) -> Done:
    devices.spare_mappings()
    begun, before = time.perf_counter(), os.times()
    content = work(states)
    after = os.times()
    seconds = time.perf_counter() - begun if states is None else states.seconds
    timing = {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(after.user + after.system - before.user - before.system, 3),
        "machine": machine(),
    }
    return Done(content, (json.dumps(timing, indent=1) + "\n").encode(), seconds)


def _bytes_of(learned: Learner) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "learned.safetensors"
        learned.save(path)
        return path.read_bytes()


def _read(kind: type[Any], content: bytes, config: Any) -> Learner:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "learned.safetensors"
        path.write_bytes(content)
        return kind.load(path, config)
