"""Writing a policy file and its card, after checking that the file acts as the policy does."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from merpo.data.prepare import action_bounds
from merpo.deploy.card import Exportable, card, markdown, sentence
from merpo.deploy.onnx import onnx_bytes, run_onnx
from merpo.deploy.stablehlo import run_stablehlo, stablehlo_bytes
from merpo.errors import ConfigError, MerpoError
from merpo.networks import Actor
from merpo.runs import write_atomic

Format = Literal["onnx", "stablehlo"]
FORMATS: tuple[Format, ...] = get_args(Format)
TOLERANCE = 1e-5
"""Largest difference between file and policy, in units of half the action range."""


def export(
    policy: Exportable,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    insist: bool = False,
    about: Mapping[str, Any] | None = None,
) -> tuple[Path, Path, Path]:
    """Write the policy to `path` and its card beside it as `.card.json` and `.card.md`; returns the three paths.

    `format` follows from the ending (`.onnx`, `.stablehlo`) if not given. `about` is added to the card.
    ConfigError for a policy that was refused a certificate and is not the behaviour clone, unless `insist`; for an
    unknown format; for a policy that is not a tanh-Gaussian actor. StorageError when a file cannot be written; then
    no policy file is.
    """
    target = Path(path)
    kind = _format(target, format)
    refused = policy.certificate is not None and not policy.certificate.certified
    if refused and not policy.stands_in and not insist:
        assert policy.certificate is not None
        raise ConfigError(
            f"{policy.certificate.sentence} Adapt without `insist` to export the clone of the logged behaviour, or"
            " export with `insist` (--insist) to have this policy all the same."
        )
    if not isinstance(policy.actor, Actor):
        raise ConfigError(
            f"policy={policy.name!r} is a {type(policy.actor).__name__}, which picks the best of many candidates:"
            " no file could be held against it, as rounding can change its pick. Export a policy of another method"
            " (all but cbcq and mbml), or use it from Python with merpo.PolicySet.load."
        )
    about = dict(about or {})
    props = {"merpo": str(policy.name), "certificate": sentence(policy)}
    if kind == "onnx":
        content = onnx_bytes(policy.actor, policy.preparation, props)
    else:
        content = stablehlo_bytes(policy.actor, policy.preparation)
    checked = _check(policy, kind, content)
    about |= {"file": target.name, "format": kind, "sha256": hashlib.sha256(content).hexdigest(), "checked": checked}
    made = card(policy, about)
    # the card comes first: a policy file is never there without it
    texts = (target.with_name(target.name + ".card.json"), target.with_name(target.name + ".card.md"))
    write_atomic(texts[0], json.dumps(made, indent=1, allow_nan=False) + "\n")
    write_atomic(texts[1], markdown(made))
    write_atomic(target, content)
    return (target, *texts)


def _format(path: Path, given: str | None) -> Format:
    kind = given if given is not None else path.suffix.lower().lstrip(".")
    for known in FORMATS:
        if kind == known:
            return known
    what = f"format={given!r}" if given is not None else f"path={str(path)!r}"
    raise ConfigError(f"{what}: expected {' or '.join(FORMATS)}, as the format or as the ending of the file's name.")


def _check(policy: Exportable, kind: Format, content: bytes) -> dict[str, Any]:
    """Compare the file with the policy on observations like and unlike the log's. Raises if they differ."""
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(256, policy.info.obs_dim)) * np.repeat([[1.0], [4.0]], 128, axis=0)
    obs = np.asarray(policy.preparation.obs_mean) + np.asarray(policy.preparation.obs_std) * spread
    obs = obs.astype(np.float32)
    found = run_onnx(content, obs) if kind == "onnx" else run_stablehlo(content, obs)
    low, high = action_bounds(policy.info)
    apart = float(np.abs((found - policy(obs)) / (0.5 * (high - low))).max())
    if not apart <= TOLERANCE:
        raise MerpoError(
            f"The exported {kind} differs from the policy by {apart:.2g} of half the action range, expected at most"
            f" {TOLERANCE:g}. Nothing was written; try the other format, and report this."
        )
    return {"observations": len(obs), "largest_difference": apart, "tolerance": TOLERANCE}
