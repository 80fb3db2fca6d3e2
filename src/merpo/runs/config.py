"""Frozen dataclasses to JSON and back, their hash and their differences.

A configuration is a frozen dataclass whose fields are int, float, bool, str, None, Literal, tuples of these,
other such dataclasses, or unions of these (`Optional` above all). Ranges are checked by each class's
`__post_init__`; here only names and types are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from merpo.errors import ConfigError

T = TypeVar("T")
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def to_json(config: Any) -> dict[str, Any]:
    """The configuration as dicts, lists and plain values that strict JSON can hold.

    The declared type decides: an int given for a float field is written as a float, so that `1` and `1.0` are
    one setting. Non-finite floats become the strings "inf", "-inf" and "nan".
    """
    if not _is_config(config):
        raise ConfigError(f"config={config!r}: expected an instance of a dataclass.")
    hints = typing.get_type_hints(type(config))
    return {f.name: _encode(getattr(config, f.name), hints[f.name], f.name) for f in _fields(type(config))}


def from_json(cls: type[T], data: Any) -> T:
    """Build a `cls` from `to_json`'s output; settings left out take their defaults.

    Raises `ConfigError` naming the setting (dotted from the top) when it is unknown, required but missing, of
    another type, or not among a Literal's choices.
    """
    return _build(cls, data, "")


def config_hash(config: Any) -> str:
    """SHA-256 (64 hex digits) of the class name and canonical JSON; the same on every machine."""
    text = json.dumps(to_json(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{type(config).__name__}:{text}".encode()).hexdigest()


def diff(first: Any, second: Any) -> list[str]:
    """The settings in which two configurations (or their JSON forms) differ, one readable line each."""
    a, b = (flatten(c if isinstance(c, Mapping) else to_json(c)) for c in (first, second))
    lines = []
    for name in [*a, *(n for n in b if n not in a)]:
        if name not in b:
            lines.append(f"{name}: {a[name]!r} -> (absent)")
        elif name not in a:
            lines.append(f"{name}: (absent) -> {b[name]!r}")
        elif a[name] != b[name] or type(a[name]) is not type(b[name]):
            lines.append(f"{name}: {a[name]!r} -> {b[name]!r}")
    return lines


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one table with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with `changes` in the place of what they name, table by table."""
    both = dict(base)
    for name, value in changes.items():
        old = both.get(name)
        both[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def nested(table: Mapping[str, Any]) -> dict[str, Any]:
    """`{"rac.lam": 1}` as `{"rac": {"lam": 1}}`; what is nested already stays so."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        inner = nested(value) if isinstance(value, Mapping) else value
        for part in reversed(name.split(".")):
            inner = {part: inner}
        found = merged(found, inner)
    return found


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(cls: type) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.init]


def _encode(value: Any, hint: Any, path: str) -> Any:
    if _is_config(value):
        return to_json(value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, tuple | list):
        args = typing.get_args(_member(hint, tuple)) or (Any, ...)
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return [_encode(v, h, f"{path}[{i}]") for i, (v, h) in enumerate(zip(value, hints, strict=True))]
    if isinstance(value, int) and not _wants_float(hint):
        return int(value)
    if isinstance(value, int | float):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    raise ConfigError(
        f"{path}={value!r}: a {type(value).__name__} cannot be stored as a setting. "
        "Use int, float, bool, str, None, tuples of these, or a nested dataclass."
    )


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _member(hint: Any, origin: type) -> Any:
    return next((m for m in _members(hint) if typing.get_origin(m) is origin or m is origin), None)


def _wants_float(hint: Any) -> bool:
    return float in _members(hint) and int not in _members(hint)


def _build(cls: Any, data: Any, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{_at(path)}={data!r}: expected a table of settings for {cls.__name__}.")
    known = {f.name: f for f in _fields(cls)}
    prefix = f"{path}." if path else ""
    for name in data:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
            hint = f"Did you mean {prefix + near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise ConfigError(f"{prefix}{name}={data[name]!r}: {cls.__name__} has no such setting. {hint}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, f in known.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], prefix + name)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name} is missing: {cls.__name__} has no default. Give a value.")
    return cls(**values)


def _decode(hint: Any, value: Any, path: str) -> Any:
    members = _members(hint)
    if len(members) > 1:
        return _decode_union(members, value, path)
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path)
    if origin is Literal:
        choices = typing.get_args(hint)
        for choice in choices:
            if choice == value and type(choice) is type(value):
                return choice
        raise ConfigError(f"{path}={value!r}: expected one of {', '.join(map(repr, choices))}.")
    if origin is tuple or hint is tuple:
        return _decode_tuple(typing.get_args(hint) or (Any, ...), value, path)
    if hint is Any and (value is None or isinstance(value, bool | int | float | str)):
        return value
    if hint in (None, type(None)) and value is None:
        return None
    if hint is float:
        if isinstance(value, str) and value in _NON_FINITE:
            return _NON_FINITE[value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise ConfigError(f"{path}={value!r}: expected {_name(hint)}, got {type(value).__name__}.")


def _decode_tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{path}={value!r}: expected a list, got {type(value).__name__}.")
    hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(hints) != len(value):
        raise ConfigError(f"{path}={value!r}: expected {len(hints)} entries, got {len(value)}.")
    return tuple(_decode(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _decode_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    candidates = [m for m in members if m is not type(None)]
    if len(candidates) == 1:  # Optional[...]: its own error says more than "none of these"
        return _decode(candidates[0], value, path)
    # exact types first, so that 3 stays an int in `float | int` and "nan" a str in `float | str`
    for member in sorted(candidates, key=lambda m: not (isinstance(m, type) and type(value) is m)):
        try:
            return _decode(member, value, path)
        except ConfigError:
            continue
    raise ConfigError(f"{path}={value!r}: expected {' or '.join(map(_name, members))}.")


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _at(path: str) -> str:
    return path or "config"
