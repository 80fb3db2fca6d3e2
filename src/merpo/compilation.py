"""Compiling the chunks that learning spends its time in: how hard the compiler should try."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from threading import Lock
from typing import Any

import jax

LEVEL, SCHEDULER = "xla_backend_optimization_level", "xla_cpu_enable_concurrency_optimized_scheduler"
ON_CPUS: dict[str, bool | int | str] = {LEVEL: 1, SCHEDULER: False}
"""What a CPU is asked for. LLVM's first level: XLA's own takes 1.6 to 2 times as long, for updates within 30 %
of each other, either way (`benchmarks/compilation_level.py`). And the order of operations that needs least memory:
the other has operations side by side in mind, and a core of each task is busy as it is."""


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """`jax.jit` with these options, and on CPUs those of `ON_CPUS` that XLA_FLAGS in the environment leaves open."""
    return lambda function: Compiled(function, options)


class Compiled:
    """A function that is compiled when it is called; everything else that `jax.jit` offers is there, too.

    The backend decides how, and looking for it when modules are imported would be too early: devices may yet be chosen.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self._function, self._options = function, options
        self._lock = Lock()
        self._jitted: Any = None
        update_wrapper(self, function)

    def _made(self) -> Any:
        with self._lock:  # threads share what is compiled
            if self._jitted is None:
                named = os.environ.get("XLA_FLAGS", "")
                asked = {k: v for k, v in ON_CPUS.items() if jax.default_backend() == "cpu" and k not in named}
                self._jitted = jax.jit(self._function, compiler_options=asked or None, **self._options)
            return self._jitted

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives; inside of what is being compiled, the function itself."""
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((args, kwargs))):
            return self._function(*args, **kwargs)
        return self._made()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._made(), name)
