"""Seconds to the first result: tracing and compiling each chunk, from nothing and with the cache of an earlier process.

    python benchmarks/compile_time.py --out results/compile/compile.json [--tasks 2] [--chunks meta-training ...]

Each chunk of the default settings for locomotion is compiled twice, each time in a process of its own: `cold` with an
empty cache, `warm` with what the cold one has left there, as a second `merpo train` finds it. CPU seconds stand beside
the clock's, which other work on the machine lengthens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from standard import chunks

from merpo.commands.session import use_compilation_cache
from merpo.files import write_atomic
from merpo.runs import versions


def one(name: str, tasks: int) -> dict[str, float]:
    """Trace, then compile (or fetch from the cache) one chunk in this process."""
    use_compilation_cache()
    lower = chunks(tasks)[name]
    jax.block_until_ready(jax.numpy.zeros(1) + 1)  # the compiler itself is awake

    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    begun = now()
    lowered = lower()
    traced = now()
    lowered.compile()
    (a, p), (b, q), (c, r) = begun, traced, now()
    return {"trace_s": b - a, "compile_s": c - b, "seconds": c - a, "trace_cpu_s": q - p, "compile_cpu_s": r - q}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--chunks", nargs="+", default=None)
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.tasks)))
        return

    rows: list[dict[str, Any]] = []
    for name in options.chunks or chunks(options.tasks):
        row: dict[str, Any] = {"chunk": name}
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                command = [sys.executable, __file__, "--one", name, "--tasks", str(options.tasks)]
                environment = {**os.environ, "MERPO_CACHE_DIR": cache}
                text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
                row[state] = {k: round(v, 2) for k, v in json.loads(text).items()}
        rows.append(row)
        print(name, row["cold"], row["warm"], flush=True)
    if options.out:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        content = {"tasks": options.tasks, "load_average": load, "chunks": rows, "versions": versions()}
        write_atomic(options.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
