"""Variants of an adaptation in a run: other settings, or a model from scratch, each a method of its own.

[no-conservatism]
"rac.beta" = 0.0

[no-meta-model]
model = "scratch"

[more-conservative]
method = "combo"
combo_beta = 3.0
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merpo.errors import ConfigError
from merpo.files import storage_error
from merpo.runs import nested

if TYPE_CHECKING:
    import merpo

VARIED = ("merpo", "rac", "combo", "combo+meta-model")
"""What there can be variants of: methods whose settings are those of the run. The first, where a table does not say.
Variant NAME is the method merpo-NAME, combo-NAME, ..."""
MODELS = ("meta", "scratch")
"""Where the model of a variant starts: `meta`, adapted from the meta-model; `scratch`, from the new log alone."""
EITHER = VARIED[:2]
"""What has a choice of models: RAC with one from scratch has nothing of the other tasks but their numbers' scales.
COMBO's two names say which it has."""
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
Variants = Mapping[str, Mapping[str, Any]]
"""Method -> settings that replace the run's, `method` and `model`."""


def read_variants(path: Path) -> Variants:
    """The variants in a TOML file by method. StorageError if it cannot be read, ConfigError naming what is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise storage_error(error, path, "read") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"variants={str(path)!r}: not TOML ({error}). Correct the file.") from error
    if not content:
        raise ConfigError(f"variants={str(path)!r}: empty; expected a table [NAME] of settings for each variant.")
    found = {}
    for name, table in content.items():
        if not _NAME.fullmatch(name) or not isinstance(table, dict):
            raise ConfigError(
                f"variants={str(path)!r}: {name!r}: expected a table of settings, its name of small letters, digits,"
                " dots and dashes: it names a file."
            )
        if (of := table.get("method", VARIED[0])) not in VARIED:
            raise ConfigError(f"[{name}] method={of!r}: expected any of {', '.join(map(repr, VARIED))}.")
        if table.get("model", MODELS[0]) not in MODELS:
            raise ConfigError(f"[{name}] model={table['model']!r}: expected {' or '.join(map(repr, MODELS))}.")
        if "model" in table and of not in EITHER:
            raise ConfigError(
                f"[{name}] model={table['model']!r}: only variants of {' and '.join(EITHER)} have a choice of models."
                " Leave it out."
            )
        settings = nested(table)
        if of.startswith("combo") and isinstance(own := settings.get("rac"), dict) and "beta" in own:
            raise ConfigError(f"[{name}] rac.beta: COMBO's conservatism is `combo_beta`. Give that instead.")
        found[f"{of}-{name}"] = settings
    return found


def variant(meta: merpo.Meta, method: str, table: Mapping[str, Any]) -> merpo.Meta:
    """What the run learned, to be adapted with this variant's settings. ConfigError names the one that does not fit."""
    try:
        return meta.adapting({k: v for k, v in table.items() if k not in ("method", "model")})
    except ConfigError as error:
        raise ConfigError(f"[{method.removeprefix(base(table) + '-')}] {error}") from error


def base(table: Mapping[str, Any]) -> str:
    """What a variant varies."""
    return str(table.get("method", VARIED[0]))


def from_scratch(table: Mapping[str, Any]) -> bool:
    """Whether its model is learned from the new log alone."""
    return table.get("model") == MODELS[1]


def recorded(value: Any) -> Variants:
    """The variants in a run's record. ValueError for anything else."""
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise ValueError("adapted.variants: expected tables of settings")
    return value


def in_order(methods: Sequence[str], order: Sequence[str]) -> list[str]:
    """Those of `order` in its order, then variants as they are given."""
    return [m for m in order if m in methods] + [m for m in dict.fromkeys(methods) if m not in order]
