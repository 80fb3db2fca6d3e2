"""Pieces of one command that share nothing, a process each.

Threads would do for the arithmetic, but tracing and much of compiling hold Python's lock.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from merpo.commands.session import use_compilation_cache
from merpo.commands.stages import Report
from merpo.errors import MerpoError

T = TypeVar("T")

REPORT, RESULT, ERROR = "report", "result", "error"
PATIENCE = 10.0
"""Seconds in which a process that is no longer wanted may finish what it writes, before it is ended."""


def in_processes(work: Callable[[str, Report], T], names: Sequence[str], show: Callable[[str], Report]) -> dict[str, T]:
    """`work(name, report)` for every name, each in a process of its own, and what each returned.

    `work` can be pickled (a module's function, or a `partial` of one) and calls `report` now and then: `show(name)` is
    called here with the same arguments. The first error ends the others at their next report and is raised here, as
    does Ctrl-C; a process that ends without a word (killed for its memory, say) raises `MerpoError`.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process that has threads may deadlock
    shares = _core_shares(len(names))
    open_ends: dict[Any, str] = {}
    end: Any
    processes: dict[str, Any] = {}
    results: dict[str, T] = {}
    try:
        for name, share in zip(names, shares, strict=True):
            mine, theirs = context.Pipe(duplex=False)
            processes[name] = context.Process(target=_work, args=(work, name, theirs, share), daemon=True)
            processes[name].start()
            theirs.close()
            open_ends[mine] = name
        while open_ends:
            for end in wait(list(open_ends)):
                name = open_ends[end]
                try:
                    kind, content = end.recv()
                except EOFError:
                    processes[name].join(PATIENCE)
                    raise MerpoError(
                        f"{name}: the process that worked on it ended without a word (exit code "
                        f"{processes[name].exitcode}; -9 is what a system short of memory does). Run it again; free "
                        "memory first if that was the reason."
                    ) from None
                if kind == REPORT:
                    show(name)(*content)
                    continue
                if kind == ERROR:
                    raise content
                results[name] = content
                del open_ends[end]
                end.close()
        return {name: results[name] for name in names}
    finally:
        for end in open_ends:
            end.close()  # whoever still works finds at its next report that nobody listens
        for process in processes.values():
            process.join(PATIENCE)
            if process.is_alive():
                process.terminate()
                process.join()


def _core_shares(count: int) -> list[set[int]]:
    """The cores of each process: disjoint where there are enough, so that no two thread pools contend for one."""
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(count)]
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[i::count]) or set(cores) for i in range(count)]


def _work(work: Callable[[str, Report], Any], name: str, end: Connection, cores: set[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; ours to be told of
    if cores:
        os.sched_setaffinity(0, cores)  # before XLA counts them
    use_compilation_cache()
    lock = threading.Lock()  # several seeds report from several threads

    def report(*content: Any) -> None:
        with lock:
            end.send((REPORT, content))

    try:
        last = (RESULT, work(name, report))
    except BrokenPipeError:
        return  # nobody listens any more
    except BaseException as error:
        error.add_note(f"In the process of {name}:\n{traceback.format_exc()}")
        last = (ERROR, error)
    with suppress(BrokenPipeError):
        try:
            end.send(last)
        except BrokenPipeError:
            raise
        except Exception as why:  # it cannot be sent as it is: in words, then
            words = "".join(traceback.format_exception(last[1])) if last[0] == ERROR else f"{name}: no result, {why}"
            end.send((ERROR, MerpoError(words)))
