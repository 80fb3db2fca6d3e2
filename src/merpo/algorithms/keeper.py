"""How learning hands its state to whoever keeps it, so that it can go on after a kill. `merpo.runs` has the one that
writes files; here is only what learning asks of it.

All random numbers come from keys folded with seed, task and round: state and number of finished rounds are enough to go
on to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from merpo import devices


@runtime_checkable
class Keeper(Protocol):
    """Keeps one state per slot; the parts of a computation that run side by side have a slot each."""

    def load(self, slot: str, like: Callable[[int], Any]) -> tuple[int, Any] | None:
        """What `save` was last given: `(done, tree)`, or None. `like(done)` gives the tree's structure and shapes."""

    def due(self, slot: str) -> bool:
        """Whether it is time to save again."""

    def save(self, slot: str, done: int, tree: Any) -> None:
        """Keep `tree`, the state after `done` rounds, in place of what the slot held."""


class Forgetful:
    """The default: keeps nothing."""

    def load(self, slot: str, like: Callable[[int], Any]) -> tuple[int, Any] | None:
        """Nothing was kept."""
        return None

    def due(self, slot: str) -> bool:
        """Never."""
        return False

    def save(self, slot: str, done: int, tree: Any) -> None:
        """Does nothing."""


class Together:
    """One process's keeper for all processes that learn together: it alone reads and writes, the others follow."""

    def __init__(self, keeper: Keeper):
        self._keeper = keeper

    def load(self, slot: str, like: Callable[[int], Any]) -> tuple[int, Any] | None:
        """What the first process's keeper has, on every process."""
        kept = self._keeper.load(slot, like) if devices.first() else None
        done = int(devices.agreed(np.int32(-1 if kept is None else kept[0])))
        if done < 0:
            return None
        tree = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like(done)) if kept is None else kept[1]
        return done, devices.agreed(tree)

    def due(self, slot: str) -> bool:
        """Whether it is time for the first process."""
        return bool(devices.agreed(np.asarray(devices.first() and self._keeper.due(slot))))

    def save(self, slot: str, done: int, tree: Any) -> None:
        """Kept by the first process."""
        if devices.first():
            self._keeper.save(slot, done, tree)


FORGETFUL = Forgetful()
