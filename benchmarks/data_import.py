"""Seconds and memory of `merpo data import` for CSV and Parquet tables; each measurement in a process of its own.

    python benchmarks/data_import.py                     # one million rows, 20 columns, both layouts
    python benchmarks/data_import.py --rows 4000000      # four times as many: the peak of memory should hardly move

The table has 20 tasks, episodes of 200 steps and 20 columns: task, episode, step, 11 observations, 3 actions, reward,
terminated, truncated. The time includes writing the stored set (Minari files and flat copy); the peak is that of the
whole process, beside which that of a process that has only imported merpo is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TASKS, STEPS, OBS, ACT = 20, 200, 11, 3


def write_table(path: Path, rows: int, layout: str) -> None:
    """The table, written in pieces."""
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    rng, writer, piece = np.random.default_rng(0), None, 200_000
    for begin in range(0, rows, piece):
        at = np.arange(begin, min(begin + piece, rows))
        table = {"task": at // -(-rows // TASKS), "episode": at // STEPS, "step": at % STEPS}
        table |= {f"obs_{i}": rng.normal(size=len(at)).astype(np.float32) for i in range(OBS)}
        table |= {f"action_{i}": rng.uniform(-1, 1, len(at)).astype(np.float32) for i in range(ACT)}
        table |= {"reward": rng.normal(size=len(at)).astype(np.float32), "terminated": np.zeros(len(at), bool)}
        block = pa.table(table | {"truncated": at % STEPS == STEPS - 1})
        if writer is None:
            writer = (pq.ParquetWriter if layout == "parquet" else pacsv.CSVWriter)(path, block.schema)
        writer.write_table(block)
    assert writer is not None
    writer.close()


def peak() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform != "darwin" else 1e6)


def measure(path: str, layout: str, root: str) -> dict[str, float]:
    """In a fresh process: import merpo, then the table."""
    from merpo.data import import_set

    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    done = import_set([path], layout, "bench/set", root=root, overwrite=True)
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": peak(),
        "before_mb": before,
        "steps": done.steps,
        "episodes": done.episodes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--layouts", nargs="+", default=["csv", "parquet"], choices=["csv", "parquet"])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    import pyarrow

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; pyarrow {pyarrow.__version__}")
    print(f"{options.rows} rows, 20 columns, {TASKS} tasks, episodes of {STEPS} steps, seed 0")
    with tempfile.TemporaryDirectory() as folder:
        for layout in options.layouts:
            path = Path(folder) / f"table.{layout}"
            write_table(path, options.rows, layout)
            command = [sys.executable, __file__, "--measure", str(path), layout, str(Path(folder) / "store")]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            size, seconds, cpu = path.stat().st_size / 1e6, found["seconds"], found["cpu_seconds"]
            print(
                f"{layout:<8} {size:7.1f} MB  {seconds:6.1f} s ({cpu:.1f} s of CPU)  peak {found['peak_mb']:.0f} MB"
                f" ({found['before_mb']:.0f} MB before)  {found['steps']} steps, {found['episodes']} episodes stored"
            )


if __name__ == "__main__":
    main()
