"""Pieces of a command in processes of their own: results, reports, errors, and an end without a word."""

import os
import signal
import time

import pytest

from merpo.commands.processes import in_processes
from merpo.errors import ConfigError, MerpoError


class Foreign(Exception):
    """An error that cannot be pickled."""

    def __reduce__(self):
        raise TypeError("no")


def squares(name, report):
    for i in range(3):
        report("counting", i + 1, 3, {})
    return {"square": int(name) ** 2, "process": os.getpid()}


def troubled(name, report):
    if name == "patient":
        for i in range(10_000):
            report("waiting", i, 10_000, {})
            time.sleep(0.01)
        return name
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "foreign":
        raise Foreign("odd")
    raise ConfigError("batch=0: expected more")


def no_report(name):
    return lambda *content: None


def test_each_works_in_a_process_of_its_own_and_results_keep_their_order():
    seen = []
    found = in_processes(squares, ("3", "2"), lambda name: lambda *content: seen.append((name, content)))
    assert [(n, f["square"]) for n, f in found.items()] == [("3", 9), ("2", 4)]
    assert len({os.getpid(), *(f["process"] for f in found.values())}) == 3
    assert [content for name, content in seen if name == "2"] == [("counting", i, 3, {}) for i in (1, 2, 3)]
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("refuses", ConfigError, "batch=0: expected more"),
        ("foreign", MerpoError, "Foreign: odd"),
        ("dies", MerpoError, "dies: the process that worked on it ended without a word .exit code -9"),
    ],
)
def test_an_error_of_one_is_raised_here_and_ends_the_others(name, kind, words):
    begin = time.perf_counter()
    with pytest.raises(kind, match=words):
        in_processes(troubled, ("patient", name), no_report)
    assert time.perf_counter() - begin < 60  # the patient one alone would take 100 s


def test_an_error_here_ends_all_of_them():
    def interrupted(name):
        def show(*content):
            raise KeyboardInterrupt

        return show

    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        in_processes(troubled, ("patient",), interrupted)
    assert time.perf_counter() - begin < 60
