"""Disjoint parts of the job axis side by side: how a CPU's cores are all used.

A light update keeps one core busy, since only its larger matrix products are split among cores. Jobs (and seeds) share
nothing, so compiled chunks over disjoint parts are dispatched from a thread each. An accelerator wants one large call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from threadpoolctl import threadpool_limits

from merpo.devices import accelerated, current
from merpo.precision import ambient


def cores() -> int:
    """Threads worth dispatching from: on a CPU a light update keeps one core busy; an accelerator wants one call, and
    so do several devices."""
    return 1 if accelerated() or current() is not None else host_cores()


def host_cores() -> int:
    """Cores of this machine that this process may use, whatever device learns."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cuts(jobs: int, parts: int) -> list[slice]:
    """Equal slices of the job axis (one compiled shape): the largest number of them up to `parts` that divides it."""
    count = max(p for p in range(1, max(min(parts, jobs), 1) + 1) if jobs % p == 0)
    size = jobs // count
    return [slice(i * size, (i + 1) * size) for i in range(count)]


def side_by_side(work: Callable[[Any], Any], parts: Sequence[Any], at_once: int | None = None) -> list[Any]:
    """`work` on every part, the first here and the others each from its own thread: XLA leaves Python's lock while it
    computes. `at_once`: as many threads at most, for work in NumPy, whose own threads would only get in each other's
    way meanwhile. One after another where several devices work together: all must come to a collective in the same
    order.
    """
    if len(parts) == 1 or at_once == 1 or current() is not None:
        return [work(part) for part in parts]
    precision = ambient()

    def there(part: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return work(part)

    if at_once is not None:
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(there, parts))
    with ThreadPoolExecutor(len(parts) - 1) as pool:
        others = [pool.submit(there, part) for part in parts[1:]]
        return [work(parts[0]), *(other.result() for other in others)]
