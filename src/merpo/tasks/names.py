"""The families by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from merpo.errors import UnknownNameError
from merpo.tasks.family import QUALITIES, Family
from merpo.tasks.half_cheetah import HALF_CHEETAH_FWD_BACK
from merpo.tasks.point_robot import POINT_ROBOT_GOAL, POINT_ROBOT_WIND

_FAMILIES = {f.name: f for f in (POINT_ROBOT_WIND, POINT_ROBOT_GOAL, HALF_CHEETAH_FWD_BACK)}


def families() -> tuple[str, ...]:
    """Names of the families."""
    return tuple(_FAMILIES)


def get_family(name: str) -> Family:
    """The family of this name. Raises UnknownNameError with the known names and the nearest one."""
    return _FAMILIES[known("family", name, families())]


def check_quality(quality: str) -> str:
    """The quality itself. Raises UnknownNameError if it is not one of QUALITIES."""
    return known("quality", quality, QUALITIES)


def known(argument: str, name: str, names: Sequence[str]) -> str:
    """`name` if it is among `names`. Raises UnknownNameError naming them and the nearest match."""
    if name in names:
        return name
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.3)
    hint = f" Did you mean {near[0]!r}?" if near else " Choose one of them."
    raise UnknownNameError(f"{argument}={name!r}: expected one of {', '.join(names)}.{hint}")
