"""How every figure looks: one palette, readable type, no frame lines; and writing it whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

from merpo.errors import ConfigError
from merpo.runs import write_atomic

# Okabe & Ito, "Color universal design": told apart by readers with any colour vision
BLACK, INK = "#000000", "#333333"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
_FIXED = {
    "behaviour": "#7A7A7A",
    "meta-policy": ORANGE,
    "bc": SKY,
    "rac": GREEN,
    "merpo": BLUE,
}
_NAMES = {"behaviour": "logged behaviour", "bc": "BC", "rac": "RAC", "merpo": "MerPO"}
LINES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
"""Colours of lines that stand for no method, in order."""
_SPARE = (VERMILION, PURPLE, GREEN, BLACK)

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#BBBBBB",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlepad": 10,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": INK,
    "figure.constrained_layout.w_pad": 0.09,
    "figure.constrained_layout.h_pad": 0.09,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def colour(method: str, others: tuple[str, ...] = ()) -> str:
    """The method's own colour, the same in every figure; unknown methods of `others` get spare ones."""
    if method.lower() in _FIXED:
        return _FIXED[method.lower()]
    unknown = [m for m in others if m.lower() not in _FIXED]
    return _SPARE[unknown.index(method) % len(_SPARE)] if method in unknown else VERMILION


def label(method: str) -> str:
    """The method's name as people write it."""
    return _NAMES.get(method.lower(), method)


@contextlib.contextmanager
def figure(path: str | os.PathLike[str], width: float, height: float, layout: Any = "constrained") -> Iterator[Any]:
    """Yield an empty figure of `width` x `height` inches in the house style, then write it to `path` as PNG.

    Raises `ConfigError` without matplotlib or for another file ending, `StorageError` when writing fails.
    """
    if not str(path).lower().endswith(".png"):
        raise ConfigError(f"path={str(path)!r}: expected a file name ending in .png.")
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "Figures need matplotlib, which is not installed. Install it with: pip install 'merpo[report]'"
        ) from error
    # the object interface with its own canvas: no global state, no display, nothing to close
    with rc_context(_STYLE):
        made = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(made)
        yield made
        buffer = io.BytesIO()
        made.savefig(buffer, format="png", dpi=160)
    write_atomic(path, buffer.getvalue())


def spread(positions: list[float], gap: float) -> list[float]:
    """Move label positions apart to at least `gap`, as little as possible, in their order."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [positions[i] for i in order]
    for _ in range(200):
        moved = False
        for i in range(len(placed) - 1):
            lack = gap - (placed[i + 1] - placed[i])
            if lack > 1e-9 * max(gap, 1e-12):
                placed[i] -= lack / 2
                placed[i + 1] += lack / 2
                moved = True
        if not moved:
            break
    out = [0.0] * len(positions)
    for i, p in zip(order, placed, strict=True):
        out[i] = p
    return out
