"""What is computed: one meta-training, and one cell. The same bytes wherever and in whatever order they are run."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from merpo import devices
from merpo.algorithms.pipeline import Learned, units_of
from merpo.algorithms.rounds import Report, silent
from merpo.algorithms.threads import cores
from merpo.api import MerPO, Meta, unlearned
from merpo.bench.plan import Cell, Fit
from merpo.data import Preparation, TaskSet
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

    Pieces that differ only in their seed can be done together, as an accelerator likes it: see `merpo.bench.run`.
    Where a folder for the state is given, it is saved there about every `every` seconds.
    """

    def __init__(self, every: float = 60.0) -> None:
        self._every = every
        self._models: tuple[Any, Any] | None = None
        self._learned: tuple[tuple[str, ...], Learner] | None = None

    def fit(self, fits: Sequence[Fit], state: Path | None = None, report: Report = silent) -> list[Done]:
        """Meta-train, of every seed; with `state`, a folder, killed work is taken up from there."""
        one, seeds = fits[0], [f.seed for f in fits]

        def work(states: Checkpoints | None) -> list[bytes]:
            train = one.logs.load()
            learned: Learner
            if one.learner == "merpo":
                learned = MerPO(one.config, seeds=seeds).fit(train, checkpoint=states, report=report)
            else:
                learned = ContextLearner(one.learner, one.config, seeds=seeds).fit(train, report=report)
            return [_bytes_of(learned.only(seed)) for seed in seeds]

        return _timed(work, None if state is None else Checkpoints(state, self._every))

    def cell(
        self,
        cells: Sequence[Cell],
        learned: Sequence[bytes] = (),
        state: Path | None = None,
        report: Report = silent,
    ) -> list[Done]:
        """Adapt and simulate, for every seed; `learned` is the content of the cells' fits, where they have such."""
        one = cells[0]

        def work(states: Checkpoints | None) -> list[bytes]:
            tasks = one.test.load()
            policies = self._policies(cells, self._taken(cells, learned), tasks, states, report)
            return [content(cell, policies, tasks) for cell in cells]

        return _timed(work, None if state is None else Checkpoints(state, self._every))

    def _taken(self, cells: Sequence[Cell], contents: Sequence[bytes]) -> Learner:
        fits = [c.fit for c in cells]
        known = [f for f in fits if f is not None]
        if not known:
            return units_only(cells)
        key = tuple(f.hash for f in known)
        if self._learned is None or self._learned[0] != key:
            kind: type[Any] = Meta if known[0].learner == "merpo" else ContextMeta
            found = [_read(kind, x, f.config) for x, f in zip(contents, known, strict=True)]
            self._learned = (key, found[0] if len(found) == 1 else kind.together(found))
        return self._learned[1]

    def _policies(
        self, cells: Sequence[Cell], learned: Learner, tasks: TaskSet, states: Checkpoints | None, report: Report
    ) -> PolicySet:
        if isinstance(learned, ContextMeta):
            return learned.adapt_many(tasks)
        one, models = cells[0], None
        if one.fit is not None:
            key = (tuple(c.fit.hash for c in cells if c.fit is not None), one.test)
            if self._models is None or self._models[0] != key:
                self._models = (key, learned.adapt_models(tasks, checkpoint=states, report=report))
            models = self._models[1]
        return learned.adapt_many(tasks, one.method, models=models, settings=one.own, checkpoint=states, report=report)


def content(cell: Cell, policies: PolicySet, tasks: TaskSet) -> bytes:
    """A cell's result: the simulated returns of its seed's policies."""
    ids = [task_id(t.name) for t in tasks]
    returns = evaluate_policies(family_of(tasks.info), policies.act(cell.seed), ids, cell.starts, START_SEED)
    known = all({"random", "expert"} <= set(t.reference) for t in tasks)
    found = {
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
    return (json.dumps(found, indent=1, allow_nan=False) + "\n").encode()


def units_only(cells: Sequence[Cell]) -> Meta:
    """What a learner of single tasks has from the training tasks: units and their scale. Nothing is learned, so the
    networks are blank."""
    cell, seeds = cells[0], tuple(c.seed for c in cells)
    used = training_tasks(cell.train.load(), cell.config.rac.gamma, "error")
    ready = Preparation.fit(used)
    scale = units_of(used, ready, cell.config)
    shapes = eqx.filter_eval_shape(lambda: unlearned(used.info, cell.config, seeds))
    blank = jax.tree.map(_zeros, shapes)
    learned = Learned(blank.meta_model, blank.meta_actor, blank.meta_critic, blank.context, scale, ready)
    return Meta(learned, used.info, cell.config, seeds)


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


def _timed(work: Callable[[Checkpoints | None], list[bytes]], states: Checkpoints | None) -> list[Done]:
    devices.spare_mappings()
    begun, before = time.perf_counter(), os.times()
    contents = work(states)
    after = os.times()
    n = len(contents)
    seconds = (time.perf_counter() - begun if states is None else states.seconds) / n
    timing = {
        "seconds": round(seconds, 3),
        "cpu_seconds": round((after.user + after.system - before.user - before.system) / n, 3),
        **({"seeds_together": n} if n > 1 else {}),
        "machine": machine(),
    }
    return [Done(x, (json.dumps(timing, indent=1) + "\n").encode(), seconds) for x in contents]


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
