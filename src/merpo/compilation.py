"""Compiling the chunks that learning spends its time in: how hard the compiler should try."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from threading import Lock
from typing import Any

import jax

LIGHT: dict[str, bool | int | str] = {"xla_backend_optimization_level": 1}
"""What a CPU is asked for: LLVM's first level. XLA's own takes 1.6 to 2 times as long, for updates within 30 %
of each other, either way (`benchmarks/compilation_level.py`)."""


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """`jax.jit` with these options, and on CPUs with `LIGHT`, unless XLA_FLAGS in the environment names a level."""
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
                own = jax.default_backend() != "cpu" or any(o in os.environ.get("XLA_FLAGS", "") for o in LIGHT)
                self._jitted = jax.jit(self._function, compiler_options=None if own else LIGHT, **self._options)
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
