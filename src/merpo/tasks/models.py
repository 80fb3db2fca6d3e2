"""The robots' MuJoCo models, in modern and in legacy physics.

*modern* is Gymnasium's own description of the robot on the installed MuJoCo. *legacy* gives the physics that the
field's published logs were made with (mujoco-py on MuJoCo before 2.1.2), on any later MuJoCo:

- a capsule's mass and inertia came from a cylinder of the same radius and of the length L + r, where the capsule
  is L + 2 r long in all. Every capsule therefore gets the mass and inertia of a cylinder of half-length h + r/2
  at the same pose; its shape for contacts stays a capsule;
- from MuJoCo 3.5.0 on the margins of two touching geoms add up, where before the larger one counted. On those
  versions the margins are halved, which is the same for geoms of equal margin.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from merpo.errors import ConfigError

PHYSICS = ("modern", "legacy")
MARGINS_ADD = (3, 5, 0)
"""First MuJoCo version in which two geoms' margins add up."""


def mujoco_module(family: str) -> ModuleType:
    """The package mujoco. Raises ConfigError with the command that installs it where it or gymnasium is missing."""
    try:
        import gymnasium  # noqa: F401 (its package holds the robots' files)
        import mujoco
        import mujoco.rollout
    except ImportError as error:
        raise ConfigError(
            f"family={family!r}: expected the packages gymnasium and mujoco ({error}). Install them"
            " with: pip install 'merpo[tasks]'."
        ) from error
    return mujoco


def asset(name: str) -> str:
    """Path of one of the robot descriptions that come with Gymnasium, e.g. `half_cheetah.xml`."""
    import gymnasium

    return str(Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / name)


def load_model(family: str, description: str, physics: str) -> Any:
    """The compiled model of one of Gymnasium's descriptions in `modern` or `legacy` physics.

    Raises ConfigError for another physics, or where mujoco or gymnasium is missing.
    """
    mujoco = mujoco_module(family)
    if physics not in PHYSICS:
        raise ConfigError(f"physics={physics!r}: expected one of {', '.join(PHYSICS)} for {family!r}. Choose one.")
    model = mujoco.MjModel.from_xml_path(asset(description))
    if physics == "legacy":
        _take_masses(mujoco, model, cylinder_model(mujoco, description))
        if version_of(mujoco.__version__) >= MARGINS_ADD:
            model.geom_margin[:] *= 0.5
    return model


def version_of(text: str) -> tuple[int, ...]:
    """`3.5.0` as (3, 5, 0); what follows the third number is left out."""
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def cylinder_model(mujoco: ModuleType, description: str) -> Any:
    """The robot with massless capsules, each with a cylinder of half-length h + r/2 and its density at its pose.

    The cylinders are invisible and touch nothing.
    """
    plain = mujoco.MjModel.from_xml_path(asset(description))
    spec = mujoco.MjSpec.from_file(asset(description))
    for body in spec.bodies:
        for geom in [g for g in body.geoms if g.type == mujoco.mjtGeom.mjGEOM_CAPSULE]:
            compiled = plain.geom(geom.name)
            radius, half = compiled.size[:2]
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                size=[radius, half + radius / 2.0, 0.0],
                pos=compiled.pos,
                quat=compiled.quat,
                density=geom.density,
                contype=0,
                conaffinity=0,
                rgba=[0.0, 0.0, 0.0, 0.0],
            )
            geom.mass = 0.0
    return spec.compile()


def _take_masses(mujoco: ModuleType, model: Any, source: Any) -> None:
    """Copy masses and inertias from a model of the same bodies, and derive anew what depends on them."""
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat"):
        np.copyto(getattr(model, name), getattr(source, name))
    mujoco.mj_setConst(model, mujoco.MjData(model))
