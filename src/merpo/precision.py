"""In which precision matrix products are computed; parameters, sums and everything else stay float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import jax

from merpo.errors import ConfigError

Precision = Literal["default", "tf32", "bf16", "highest"]
NAMES = {"tf32": "tensorfloat32", "bf16": "BF16_BF16_F32", "highest": "highest"}
"""What JAX calls them. Its own "bfloat16" only allows bfloat16: a GPU would take TF32."""


def check(name: str) -> None:
    """ConfigError for a precision that merpo does not know."""
    if name not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise ConfigError(f"matmul_precision={name!r}: expected one of {known}.")


@contextmanager
def use(name: str) -> Iterator[None]:
    """Matrix products inside, on this thread, in this precision; `default` leaves what JAX is set to."""
    check(name)
    if name == "default":
        yield
        return
    with jax.default_matmul_precision(NAMES[name]):
        yield


def ambient() -> str | None:
    """What JAX is set to on this thread, by its own name: other threads do not see a `use` of this one."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def described(name: str = "default") -> str:
    """For the record: the precision asked for, and what a CPU makes of it, where XLA rounds no factor of a product."""
    check(name)
    asked = name if name != "default" else str(ambient() or "default")
    return f"{asked} (float32 on a CPU)" if jax.default_backend() == "cpu" else asked
