"""Reading pickled NumPy arrays without unpickling: an interpreter of the opcodes that an array's pickle consists of.

Python's own unpickler imports and calls what the stream names. Here nothing is ever imported or called: a small
stack machine handles data opcodes (numbers, strings, tuples, lists), and the few names that NumPy writes when it
pickles an array are known symbols whose "calls" are carried out by code in this file, on bytes and a list of
harmless dtypes. Every other name, and every other opcode (INST, OBJ, NEWOBJ, EXT, PERSID, ...), is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from merpo.data.exchange.pickled import CALLS, SYMBOLS, Array, Dtype, Refused, Symbol

DEEPEST = 10_000_000
"""Values on the stack or in the memo beyond which a stream is refused."""


class _Mark:
    pass


def array_rows(stream: bytes) -> tuple[tuple[int, ...], list[Any]]:
    """Shape and items (C order) of the pickled object array that `stream` holds.

    Items are NumPy arrays, numbers, None, text, or lists and tuples of such. Raises `Refused` (a `DataError`) with
    the reason for anything but an object array of those.
    """
    try:
        value = _Machine(stream).run()
    except Refused:
        raise
    except RecursionError:
        raise Refused("nested beyond reason") from None
    except Exception as error:  # a damaged stream breaks the machine in many ways
        raise Refused(f"a damaged stream ({type(error).__name__}: {error})") from error
    if not isinstance(value, Array) or not isinstance(value.content, list):
        raise Refused("no object array")
    return value.shape, [_plain(x) for x in value.content]


def _plain(x: Any, depth: int = 0) -> Any:
    if isinstance(x, Array):
        if isinstance(x.content, np.ndarray):
            return x.content
        raise Refused("object arrays inside an object array" if x.content is not None else "an unfinished array")
    if isinstance(x, list | tuple) and depth < 3:
        return type(x)(_plain(v, depth + 1) for v in x)
    if x is None or isinstance(x, int | float | str | np.generic):
        return x
    raise Refused(f"{type(x).__name__.strip('_').lower()} among the items")


class _Machine:
    """Runs the opcodes of one stream (Python's pickletools documents them)."""

    def __init__(self, stream: bytes):
        self.data, self.at = stream, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        table, data, end = TABLE, self.data, len(self.data)
        while self.at < end:
            code = data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                if len(self.stack) != 1:
                    raise Refused("a stream that ends with an untidy stack")
                if self.at != end:
                    raise Refused("bytes after its end")
                return self.stack[0]
            step = table.get(code)
            if step is None:
                raise Refused(f"opcode {bytes([code])!r} at byte {self.at - 1}, which no array needs")
            step(self)
            if len(self.stack) > DEEPEST or len(self.memo) > DEEPEST:
                raise Refused("a stream that is too large")
        raise Refused("a stream that was cut")

    def take(self, n: int) -> bytes:
        if n < 0 or self.at + n > len(self.data):
            raise Refused("a stream that was cut")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def protocol(self, version: int) -> None:
        if version > 5:
            raise Refused(f"protocol {version} of pickles; expected at most 5")

    def frame(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise Refused("a stream that was cut")

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise Refused("a stream that was cut")
        found = self.data[self.at : end]
        self.at = end + 1
        return found

    def pop(self) -> Any:
        x = self.stack.pop()
        if x is _MARK:
            raise Refused("a mark where a value was expected")
        return x

    def to_mark(self) -> list[Any]:
        i = len(self.stack) - 1
        while self.stack[i] is not _MARK:
            i -= 1
            if i < 0:
                raise Refused("no mark")
        found = self.stack[i + 1 :]
        del self.stack[i:]
        return found

    def symbol(self, module: Any, name: Any) -> None:
        known = SYMBOLS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if known is None:
            raise Refused(f"the name {module}.{name}, which no array needs; it could run code if it were loaded")
        self.stack.append(Symbol(known))

    def reduce(self) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, Symbol) or not isinstance(args, tuple):
            raise Refused("a call of something that is no function")
        self.stack.append(CALLS[function.name](*args))

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if not isinstance(target, Array | Dtype):
            raise Refused(f"a state for {type(target).__name__}")
        target.build(state)

    def extend(self) -> None:
        items = self.to_mark()
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Refused("items appended to something that is no list")
        target.extend(items)

    def append(self) -> None:
        item = self.pop()
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Refused("an item appended to something that is no list")
        target.append(item)

    def integer(self) -> None:
        text = self.line()
        if len(text) > 25:
            raise Refused("an integer beyond reason")
        text = text.removesuffix(b"L")
        self.stack.append({b"00": False, b"01": True}.get(text, int(text)))

    def long(self, size: int) -> None:
        if size > 16:
            raise Refused("an integer beyond reason")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def tuple_of(self, n: int) -> None:
        if n > len(self.stack):
            raise Refused("a tuple of values that are not there")
        items = [self.pop() for _ in range(n)]
        self.stack.append(tuple(reversed(items)))


_MARK = _Mark()


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(make(m))


def _text(m: _Machine, size: int) -> str:
    return m.take(size).decode("utf-8", "surrogatepass")


def _put(m: _Machine, key: int) -> None:
    if not m.stack or m.stack[-1] is _MARK:
        raise Refused("nothing to remember")
    m.memo[key] = m.stack[-1]


def _quoted(m: _Machine) -> str:
    """A protocol 0 string, as Python 2 wrote it: quoted, with escapes."""
    text = m.line()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise Refused("text without quotes")
    return text[1:-1].decode("unicode_escape")


def _latin(m: _Machine, size: int) -> bytes:
    return m.take(size)


TABLE: dict[int, Callable[[_Machine], None]] = {
    ord(code): step
    for code, step in {
        "\x80": lambda m: m.protocol(m.number("<B")),
        "\x95": lambda m: m.frame(m.number("<Q")),
        "(": lambda m: m.stack.append(_MARK),
        "0": lambda m: m.pop() and None,  # POP
        "N": _push(lambda m: None),
        "\x88": _push(lambda m: True),
        "\x89": _push(lambda m: False),
        "I": _Machine.integer,
        "L": _Machine.integer,
        "J": _push(lambda m: m.number("<i")),
        "K": _push(lambda m: m.number("<B")),
        "M": _push(lambda m: m.number("<H")),
        "\x8a": lambda m: m.long(m.number("<B")),
        "F": _push(lambda m: float(m.line())),
        "G": _push(lambda m: m.number(">d")),
        "S": _push(_quoted),
        "T": _push(lambda m: _latin(m, m.number("<i"))),  # BINSTRING
        "U": _push(lambda m: _latin(m, m.number("<B"))),
        "V": _push(lambda m: m.line().decode("raw-unicode-escape")),
        "X": _push(lambda m: _text(m, m.number("<I"))),
        "\x8c": _push(lambda m: _text(m, m.number("<B"))),
        "\x8d": _push(lambda m: _text(m, m.number("<Q"))),
        "B": _push(lambda m: m.take(m.number("<I"))),
        "C": _push(lambda m: m.take(m.number("<B"))),
        "\x8e": _push(lambda m: m.take(m.number("<Q"))),
        "\x96": _push(lambda m: m.take(m.number("<Q"))),  # BYTEARRAY8
        ")": _push(lambda m: ()),
        "t": lambda m: m.stack.append(tuple(m.to_mark())),
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "]": _push(lambda m: []),
        "l": lambda m: m.stack.append(m.to_mark()),
        "e": _Machine.extend,
        "a": _Machine.append,
        "p": lambda m: _put(m, int(m.line())),
        "q": lambda m: _put(m, m.number("<B")),
        "r": lambda m: _put(m, m.number("<I")),
        "\x94": lambda m: _put(m, len(m.memo)),  # MEMOIZE
        "g": _push(lambda m: m.memo[int(m.line())]),
        "h": _push(lambda m: m.memo[m.number("<B")]),
        "j": _push(lambda m: m.memo[m.number("<I")]),
        "c": lambda m: m.symbol(m.line().decode("utf-8"), m.line().decode("utf-8")),
        "\x93": lambda m: m.symbol(*reversed([m.pop(), m.pop()])),  # STACK_GLOBAL
        "R": _Machine.reduce,
        "b": _Machine.build,
    }.items()
}
