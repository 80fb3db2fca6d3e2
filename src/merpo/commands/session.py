"""What every command shares: JAX's compilation cache, console output, and stage times."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def cache_folder() -> Path | None:
    """Where compiled functions are kept between commands, or None for nowhere.

    `$MERPO_CACHE_DIR` (`off` for none), else `$XDG_CACHE_HOME/merpo`, else `~/.cache/merpo`.
    """
    chosen = os.environ.get("MERPO_CACHE_DIR")
    if chosen:
        return None if chosen == "off" else Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "merpo"


def use_compilation_cache() -> None:
    """Let JAX keep compiled functions on the disk: the second run of a command starts much sooner.

    Does nothing where `JAX_COMPILATION_CACHE_DIR` already says what to do, or the folder cannot be made: a cache
    is a convenience, never a reason to fail.
    """
    folder = cache_folder()
    if folder is None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    with suppress(OSError):
        (folder / "jax").mkdir(parents=True, exist_ok=True)
        if not os.access(folder / "jax", os.W_OK):
            return
        import jax

        jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class Stopwatch:
    """Seconds by stage name, in the order in which the stages began; the same name adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as `name`."""
        begin = time.perf_counter()
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def lines(self) -> list[str]:
        """One aligned line per stage."""
        width = max((len(n) for n in self.seconds), default=0)
        return [f"  {name:<{width}}  {spent:7.1f} s" for name, spent in self.seconds.items()]


def say(text: str = "") -> None:
    """Print one plain line; flushed, so that it keeps its place beside progress bars in a log file."""
    print(text, flush=True)


def emphasise(text: str) -> None:
    """Print one sentence that matters, in bold on a terminal."""
    if sys.stdout.isatty():
        _console().print(text, style="bold", markup=False, highlight=False)
    else:
        say(text)


def _console(**options: Any) -> Any:
    from rich.console import Console

    return Console(**options)


def complain(text: str) -> None:
    """Print one error on standard error, in red on a terminal, without wrapping it."""
    if sys.stderr.isatty():
        _console(stderr=True, soft_wrap=True).print(f"error: {text}", style="bold red", markup=False, highlight=False)
    else:
        print(f"error: {text}", file=sys.stderr, flush=True)
