"""The values that a pickled NumPy array is built from, and the few "calls" in its pickle, carried out on plain bytes.

See `unpickle`: nothing here imports or calls what a stream names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from merpo.errors import DataError

DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])|bool|bool_|(u?int|float)(8|16|32|64)")
"""Dtypes that hold plain numbers."""
OBJECT = re.compile(r"[<>|=]?O8?")
NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
SYMBOLS = {
    **{(m, n): n for m in NUMPY[1:3] for n in ("_reconstruct", "scalar")},
    **{(m, "_frombuffer"): "_frombuffer" for m in NUMPY[3:]},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("builtins", "bytearray"): "bytearray",
    ("__builtin__", "bytearray"): "bytearray",
}
"""(module, name) pairs that occur in pickled arrays; anything else is refused."""


class Refused(DataError):
    """A pickle that holds something else than plain arrays of numbers, or is damaged."""


@dataclass(frozen=True)
class Symbol:
    """A name of the stream that is known, by what it stands for."""

    name: str


class Dtype:
    """A dtype as the stream builds it; resolved when it is used."""

    def __init__(self, code: Any):
        if not isinstance(code, str) or not (DTYPE.fullmatch(code) or OBJECT.fullmatch(code)):
            raise Refused(f"dtype {code!r}; expected plain numbers")
        self.code, self.order = code, "="

    def build(self, state: Any) -> None:
        """Take the byte order from a dtype's state; everything else in it must be empty."""
        if not isinstance(state, tuple) or len(state) < 2:
            raise Refused("a dtype with an unknown state")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]  # bytes: Python 2
        if order not in ("<", ">", "|", "="):
            raise Refused("a dtype with an unknown state")
        if state[0] not in (3, 4):
            raise Refused(f"version {state[0]!r} of a dtype's state; expected 3 or 4")
        if any(x is not None for x in state[2:5]):  # subarray, names, fields
            raise Refused("a dtype with fields")
        self.order = order

    @property
    def is_object(self) -> bool:
        """Whether it is the dtype of Python objects."""
        return OBJECT.fullmatch(self.code) is not None

    @property
    def value(self) -> np.dtype:
        """The dtype of numbers that it is."""
        kind = np.dtype(self.code)
        return kind.newbyteorder(">") if self.order == ">" else kind.newbyteorder("<") if self.order == "<" else kind


class Array:
    """An array as the stream builds it."""

    def __init__(self) -> None:
        self.content: np.ndarray | list[Any] | None = None
        self.shape: tuple[int, ...] = ()

    def build(self, state: Any) -> None:
        """Take shape, dtype and content from an array's state."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Dtype):
            raise Refused("an array with an unknown state")
        version, shape, dtype, fortran, content = state
        if version != 1:
            raise Refused(f"version {version!r} of an array's state; expected 1")
        self.fill(shape, dtype, bool(fortran), content)

    def fill(self, shape: Any, dtype: Dtype, fortran: bool, content: Any) -> None:
        """Numbers from bytes, or objects from a list; `Refused` when they do not fit the shape."""
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
            raise Refused(f"an array of shape {shape!r}")
        size = 1
        for n in shape:
            size *= n
        if dtype.is_object:
            if not isinstance(content, list) or len(content) != size or (fortran and len(shape) > 1):
                raise Refused(f"an object array of shape {shape} whose content does not fit it")
            self.shape, self.content = shape, content
            return
        kind = dtype.value
        if not isinstance(content, bytes | bytearray) or len(content) != size * kind.itemsize:
            raise Refused(f"an array of shape {shape} and dtype {kind} whose bytes do not fit it")
        flat = np.frombuffer(content, kind)
        self.shape, self.content = shape, flat.reshape(shape, order="F" if fortran else "C")


def _call_reconstruct(subtype: Any, shape: Any, code: Any) -> Array:
    if subtype != Symbol("ndarray") or shape != (0,) or code not in ("b", b"b"):
        raise Refused("an array of an unknown kind")
    return Array()


def _call_dtype(code: Any, *_: Any) -> Dtype:
    return Dtype(code.decode("latin1") if isinstance(code, bytes) else code)


def _call_scalar(dtype: Any, content: Any = None) -> Any:
    if not isinstance(dtype, Dtype) or dtype.is_object or not isinstance(content, bytes):
        raise Refused("a scalar of an unknown kind")
    kind = dtype.value
    if len(content) != kind.itemsize:
        raise Refused("a scalar whose bytes do not fit it")
    return np.frombuffer(content, kind)[0]


def _call_frombuffer(content: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Array:
    if not isinstance(dtype, Dtype) or dtype.is_object:
        raise Refused("an array of an unknown kind")
    made = Array()
    made.fill(shape, dtype, order == "F", content)
    return made


def _call_encode(text: Any, coding: Any) -> bytes:
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise Refused("text in an unknown coding")
    return text.encode("latin1")


def _call_bytearray(content: Any = b"") -> bytes:
    if not isinstance(content, bytes):
        raise Refused("a byte array of something else")
    return content


def _call_refused(*_: Any) -> Any:
    raise Refused("a call that no array needs")


CALLS: dict[str, Callable[..., Any]] = {
    "_reconstruct": _call_reconstruct,
    "scalar": _call_scalar,
    "_frombuffer": _call_frombuffer,
    "ndarray": _call_refused,
    "dtype": _call_dtype,
    "encode": _call_encode,
    "bytearray": _call_bytearray,
}
