"""The families by name, in the physics and with the observation asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from merpo.data.types import SetInfo
from merpo.errors import ConfigError, UnknownNameError
from merpo.tasks.ant import ANT_DIR, ANT_FWD_BACK, ANT_GOAL
from merpo.tasks.family import QUALITIES, Family
from merpo.tasks.half_cheetah import HALF_CHEETAH_FWD_BACK, HALF_CHEETAH_VEL, with_observation
from merpo.tasks.hopper import HOPPER_PARAMS
from merpo.tasks.models import PHYSICS
from merpo.tasks.point_robot import (
    POINT_ROBOT_GOAL,
    POINT_ROBOT_WIND,
    POINT_ROBOT_WIND_UNSCALED,
    SPARSE_POINT_ROBOT,
)
from merpo.tasks.walker import WALKER_2D_PARAMS

_FAMILIES = {
    f.name: f
    for f in (
        POINT_ROBOT_WIND,
        POINT_ROBOT_WIND_UNSCALED,
        POINT_ROBOT_GOAL,
        SPARSE_POINT_ROBOT,
        HALF_CHEETAH_FWD_BACK,
        HALF_CHEETAH_VEL,
        WALKER_2D_PARAMS,
        HOPPER_PARAMS,
        ANT_FWD_BACK,
        ANT_DIR,
        ANT_GOAL,
    )
}
_CHEETAHS = (HALF_CHEETAH_FWD_BACK.name, HALF_CHEETAH_VEL.name)
OBSERVATIONS = ("standard", "legacy")


def families() -> tuple[str, ...]:
    """Names of the families.

    >>> from merpo.tasks import families, get_family
    >>> families()[:3]
    ('point-robot-wind', 'point-robot-wind-unscaled', 'point-robot-goal')
    >>> family = get_family("walker-2d-params")
    >>> family.obs_dim, family.act_dim, family.horizon
    (17, 6, 200)
    """
    return tuple(_FAMILIES)


def get_family(name: str, physics: str | None = None, observation: str = "standard") -> Family:
    """The family of this name; `physics` is `modern` (the MuJoCo families' default) or `legacy`.

    `observation="legacy"` gives the cheetahs' 20 numbers. Raises UnknownNameError with the known names and the
    nearest one, ConfigError for a setting that the family does not have.
    """
    return _variant(known("family", name, families()), physics, observation)


@cache
def _variant(name: str, physics: str | None, observation: str) -> Family:
    family = _FAMILIES[name]
    allowed = ("none",) if family.physics == "none" else PHYSICS
    if physics is not None and physics not in allowed:
        raise ConfigError(f"physics={physics!r}: expected one of {', '.join(allowed)} for {name!r}. Choose one.")
    seen = OBSERVATIONS if name in _CHEETAHS else OBSERVATIONS[:1]
    if observation not in seen:
        raise ConfigError(f"observation={observation!r}: expected one of {', '.join(seen)} for {name!r}. Choose one.")
    if physics is not None and physics != family.physics:
        family = replace(family, physics=physics)
    return with_observation(family, observation)


def family_of(info: SetInfo) -> Family:
    """The family that a data set was collected in, with its physics and observation.

    Raises UnknownNameError or ConfigError when there is no such family, or it has another observation.
    """
    plain = get_family(info.family, info.physics)
    family = plain if info.obs_dim == plain.obs_dim else get_family(info.family, info.physics, "legacy")
    if family.obs_dim != info.obs_dim:
        raise ConfigError(
            f"obs_dim={info.obs_dim!r}: expected {plain.obs_dim} as {info.family!r} observes. Give data of that family."
        )
    return family


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
