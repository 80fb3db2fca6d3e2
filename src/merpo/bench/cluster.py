"""The same pieces of work on the workers of a Ray cluster: results come back as bytes, and are written here.

A worker needs merpo of the same code and generates the logs itself; both are checked by their hashes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax

from merpo.bench.plan import Cell, Fit, code_version
from merpo.bench.work import Done, Workshop
from merpo.errors import ConfigError, DivergenceError, StorageError

if TYPE_CHECKING:
    from merpo.bench.folder import Folder
    from merpo.bench.run import Unit, Watcher

PASSED = ("MERPO_DATA_DIR", "MERPO_CACHE_DIR", "PYTHONPATH", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR")
"""What workers have of this process's environment."""


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names, or make one here of `workers` cores. ConfigError without Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"workers={workers}: this needs ray, which is not installed. Run: pip install 'merpo[ray]', or leave"
            " --workers out to run the cells here, one after another."
        ) from error
    here: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    if jax.config.values.get("jax_compilation_cache_dir"):
        passed["JAX_COMPILATION_CACHE_DIR"] = str(jax.config.values["jax_compilation_cache_dir"])
    ray.init(log_to_driver=False, logging_level=logging.WARNING, runtime_env={"env_vars": passed}, **here)
    try:
        yield
    finally:
        ray.shutdown()


def run_on_ray(todo: Sequence[Unit], folder: Folder, watcher: Watcher, workers: int) -> dict[str, str]:
    """At most `workers` pieces at once; a cell waits for its meta-training. Returns what diverged: hash and reason."""
    import ray

    remote = ray.remote(num_cpus=1)(_work)
    waiting = list(todo)
    running: dict[Any, Unit] = {}
    failed: dict[str, str] = {}
    # a meta-training is sent to the cluster once, however many cells read it
    learned: dict[str, Any] = {}
    while waiting or running:
        for unit in list(waiting):
            fit = unit.fit if isinstance(unit, Cell) else None
            if fit is not None and fit.hash in failed:
                failed[unit.hash] = failed[fit.hash]
                waiting.remove(unit)
                watcher.end(unit, None)
            elif len(running) < workers and (fit is None or folder.done(fit)):
                if fit is not None and fit.hash not in learned:
                    learned[fit.hash] = ray.put(folder.result(fit).read_bytes())
                watcher.begin(unit)
                reference = remote.remote(unit, None if fit is None else learned[fit.hash], code_version(), _data(unit))
                running[reference] = unit
                waiting.remove(unit)
        ready, _ = ray.wait(list(running), num_returns=1) if running else ([], [])
        for reference in ready:
            unit = running.pop(reference)
            try:
                done = ray.get(reference)
            except DivergenceError as error:
                failed[unit.hash] = str(getattr(error, "cause", error))
                watcher.end(unit, None)
                continue
            folder.keep(unit, done)
            watcher.end(unit, done.seconds)
    return failed


def _data(unit: Unit) -> tuple[str, ...]:
    return (unit.logs.hash,) if isinstance(unit, Fit) else (unit.train.hash, unit.test.hash)


_SHOP: list[Workshop] = []
"""The worker's own: what it remembers serves the next piece of work on the same models."""


def _work(unit: Unit, learned: bytes | None, code: str, data: tuple[str, ...]) -> Done:
    """On the worker. StorageError if its code or its logs are others than the driver's."""
    for what, there, here in (("code", code, code_version()), ("logs", data, _data(unit))):
        if there != here:
            raise StorageError(
                f"A worker has other {what} than the driver ({here} != {there}): install the same merpo."
            )
    if not _SHOP:
        _SHOP.append(Workshop())
    if isinstance(unit, Fit):
        return _SHOP[0].fit((unit,))[0]
    return _SHOP[0].cell((unit,), () if learned is None else (learned,))[0]
