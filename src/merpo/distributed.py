"""Several processes, on one host or on several, that learn as one: `initialize` in each before anything is computed.

    merpo.distributed.initialize("10.0.0.1:1234", processes=2, process=0)  # 1 on the other host
    with merpo.devices.use(jax.device_count()):
        meta = merpo.MerPO(seed=0).fit(data.train)

All processes run the same program on the same data and get the same result; the first alone writes files.
"""

from __future__ import annotations

import re

import jax

from merpo.errors import ConfigError

PATIENCE = 60
"""Seconds that a process waits at its end for the others: for the first to write, for one that failed not at all."""


def initialize(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the other processes. `coordinator` is HOST:PORT of process 0, the same in all of them.

    Without arguments JAX reads them from the environment (Slurm, Open MPI, Kubernetes, TPU pods). Waits for all
    processes, at most five minutes. Raises ConfigError for arguments that do not fit together.
    """
    given = (coordinator, processes, process)
    if given != (None, None, None):
        if coordinator is None or processes is None or process is None:
            raise ConfigError(
                f"coordinator={coordinator!r}, processes={processes}, process={process}: expected all three, or none "
                "where the environment (Slurm, Open MPI, ...) says them."
            )
        if not re.fullmatch(r"\S+:\d{1,5}", coordinator) or not 0 < int(coordinator.rsplit(":", 1)[1]) < 65536:
            raise ConfigError(f"coordinator={coordinator!r}: expected HOST:PORT of process 0, e.g. 10.0.0.1:1234.")
        if not 0 <= process < processes:
            raise ConfigError(f"process={process}, processes={processes}: expected a number from 0 to processes - 1.")
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"coordinator={coordinator!r}: the processes could not be joined ({error}). Call this once, before anything"
            " is computed; where the environment does not say them, give coordinator, processes and process."
        ) from error
