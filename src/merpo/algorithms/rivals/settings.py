"""Checks that the rivals' settings share: one clear error per setting that does not fit."""

from __future__ import annotations

import math
from typing import Any

from merpo.errors import ConfigError


def check_counts(config: Any, *names: str) -> None:
    """Every named setting is a whole number >= 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name}={getattr(config, name)}: expected a whole number >= 1.")


def check_steps(config: Any, *names: str) -> None:
    """Every named setting is a step size in (0, 1)."""
    for name in names:
        if not 0.0 < getattr(config, name) < 1.0:
            raise ConfigError(f"{name}={getattr(config, name)}: expected a step size in (0, 1), e.g. 3e-4.")


def check_shares(config: Any, *names: str) -> None:
    """Every named setting is in [0, 1]."""
    for name in names:
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ConfigError(f"{name}={getattr(config, name)}: expected a number in [0, 1].")


def check_weights(config: Any, *names: str) -> None:
    """Every named setting is a finite number >= 0."""
    for name in names:
        if not 0.0 <= getattr(config, name) < math.inf:
            raise ConfigError(f"{name}={getattr(config, name)}: expected a finite number >= 0.")


def check_widths(config: Any, *names: str) -> None:
    """Every named setting lists widths of hidden layers, all >= 1."""
    for name in names:
        widths = getattr(config, name)
        if not widths or min(widths) < 1:
            raise ConfigError(f"{name}={widths}: expected the widths of at least one hidden layer, e.g. (256, 256).")
