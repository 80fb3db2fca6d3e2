"""The loop of meta-training and of adaptation: parts of the job axis advance round by round, side by side.

After each round its figures are checked, reported, and, when it is time, the state is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from merpo import devices
from merpo.algorithms.health import Where, check_figures, check_state
from merpo.algorithms.keeper import Keeper
from merpo.algorithms.threads import side_by_side

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called as `report(stage, done, total, figures)` after every chunk."""

Advance = Callable[[Any, Any, int], tuple[Any, dict[str, Array]]]
"""`advance(state, part, i)`: a part's state after round i, and its figures [1, job]."""


def silent(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    """The default report: nothing."""


def run_rounds(
    advance: Advance,
    state: Any,
    parts: Sequence[Any],
    updates: int,
    where: Where,
    report: Report,
    keeper: Keeper,
    slot: str,
) -> tuple[Any, dict[str, Float[np.ndarray, "round seed task"]]]:
    """Advance by `updates`: the state afterwards and the learning curves.

    `state` is cut along the leading axis of every leaf into as many equal pieces as there are `parts`. What `keeper`
    has of an earlier process is taken up, its rounds reported again. Several devices have one part, spread among them.
    Raises DivergenceError.
    """
    every = where.config.rac.imagine_every
    total = updates // every

    def pieces(whole: Any) -> list[Any]:
        several = devices.current() is not None
        return [devices.spread(whole, len(where.seeds) * len(where.tasks))] if several else cut(whole, len(parts))

    def like(done: int) -> Any:
        figures = jax.eval_shape(lambda s, p: advance(s, p, 0)[1], pieces(state)[0], parts[0])
        return state, {k: jax.ShapeDtypeStruct((done, v.shape[1] * len(parts)), v.dtype) for k, v in figures.items()}

    def show(i: int, figures: dict[str, np.ndarray]) -> None:
        report(where.stage, (i + 1) * every, updates, {k: float(np.mean(v)) for k, v in figures.items()})

    curves: list[dict[str, np.ndarray]] = []
    kept = keeper.load(slot, like)
    if kept is not None:
        done, (state, figures) = kept
        curves = [{k: np.asarray(v)[i : i + 1] for k, v in figures.items()} for i in range(done)]
        for i, one in enumerate(curves):
            show(i, one)
    states = pieces(state)
    del state, kept

    for i in range(len(curves), total):

        def work(part: tuple[Any, Any], i: int = i) -> tuple[Any, dict[str, np.ndarray]]:
            after, metrics = advance(*part, i)
            return after, jax.device_get(metrics)

        advanced = side_by_side(work, list(zip(states, parts, strict=True)))
        states, found = (list(x) for x in zip(*advanced, strict=True))
        figures = {k: np.concatenate([m[k] for m in found], axis=1) for k in found[0]}
        check_figures(figures, where, f"updates {i * every + 1} to {(i + 1) * every} of {updates}")
        curves.append(figures)
        if keeper.due(slot):
            whole = joined(states)
            check_state(whole, where, f"after update {(i + 1) * every} of {updates}")
            keeper.save(slot, i + 1, (whole, _end_to_end(curves)))
            del whole
        show(i, figures)

    whole = joined(states)
    check_state(whole, where, f"after update {updates} of {updates}")
    n = len(where.seeds)
    by_seed = {k: v.reshape(v.shape[0], n, v.shape[1] // n) for k, v in _end_to_end(curves).items()}
    return jax.tree.map(jnp.asarray, whole), by_seed


def _end_to_end(curves: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {k: np.concatenate([c[k] for c in curves]) for k in curves[0]}


def cut(tree: Any, parts: int) -> list[Any]:
    """Equal pieces along the leading axis of every leaf. Each has buffers of its own: chunks donate theirs."""

    def piece(x: Any, i: int) -> Array:
        size = x.shape[0] // parts
        return jnp.array(np.asarray(x)[i * size : (i + 1) * size])

    return [jax.tree.map(lambda x, i=i: piece(x, i), tree) for i in range(parts)]


def joined(pieces: Sequence[Any]) -> Any:
    """The inverse of `cut`, on the host; of what several devices have too."""
    if len(pieces) == 1:
        return jax.tree.map(np.asarray, devices.local(pieces[0]))
    return jax.tree.map(lambda *x: np.concatenate([np.asarray(v) for v in x]), *pieces)
