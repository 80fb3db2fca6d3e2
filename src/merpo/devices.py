"""Several devices, of one host or of several: the job axis is split among them, each works on its own jobs.

    with merpo.devices.use(4):
        meta = merpo.MerPO(seed=0).fit(data.train)

Learning is split where tasks share nothing: each device takes its part of the jobs through the same `lax.map` or
`vmap` that one device takes them all through (`by_device`). What couples tasks, above all the step of the meta-policy,
stays one program over all devices: XLA splits its sums over the tasks and adds them up by collectives.
Without `use` nothing here does anything.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from merpo.errors import ConfigError, MerpoError

AXIS = "job"
_mesh: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


@contextmanager
def use(number: int) -> Iterator[None]:
    """Spread what is learned inside over the first `number` devices; 1 is learning as without it.

    Where `merpo.distributed.initialize` has joined several processes, `number` must be all of their devices together.
    """
    found = jax.devices()
    if not 1 <= number <= len(found):
        raise ConfigError(
            f"devices={number}: expected 1 to {len(found)}, which JAX finds here ({found[0].platform}). A CPU can "
            "stand for N devices with XLA_FLAGS=--xla_force_host_platform_device_count=N in the environment."
        )
    if jax.process_count() > 1 and number != len(found):
        raise ConfigError(
            f"devices={number}: expected {len(found)}, all devices of the {jax.process_count()} processes together."
        )
    token = _mesh.set(Mesh(np.asarray(found[:number]), (AXIS,)) if number > 1 else None)
    try:
        yield
    finally:
        _mesh.reset(token)


def current() -> Mesh | None:
    """The devices in use, where these are several."""
    return _mesh.get()


def count() -> int:
    """How many devices are in use."""
    mesh = current()
    return 1 if mesh is None else int(mesh.size)


def hosts() -> int:
    """How many processes the devices in use belong to."""
    mesh = current()
    return 1 if mesh is None else len({d.process_index for d in mesh.devices.flat})


def first() -> bool:
    """Whether this is the process that writes: the only one, or the first of those that work together."""
    return hosts() == 1 or jax.process_index() == 0


def by_device(work: Callable[[Any, Any], Any], shared: Any, packed: Any, mesh: Mesh) -> Any:
    """`work(shared, part)` on each device's part of the leading axis of `packed`; `shared` every device has whole.

    The axis is filled up with its first entries to a multiple of the devices; what comes of these is dropped.
    """
    count = jax.tree.leaves(packed)[0].shape[0]
    fill = -count % mesh.size
    if fill:
        index = jnp.arange(count + fill) % count
        packed = jax.tree.map(lambda x: x[index], packed)
    whole, part = PartitionSpec(), PartitionSpec(AXIS)
    split = jax.shard_map(work, mesh=mesh, in_specs=(whole, part), out_specs=part, check_vma=False)
    done = split(shared, packed)
    return jax.tree.map(lambda x: x[:count], done) if fill else done


NARROW_LAYERS, HANDFUL = 64, 10
"""Width of hidden layers up to which a CPU is faster with this many jobs in one batched product."""


def accelerated() -> bool:
    """Whether JAX computes on something other than a CPU."""
    return jax.default_backend() != "cpu"


def batched(group: int | None, widths: Sequence[int] = ()) -> int:
    """How many jobs with networks of these widths advance as one batched product: `group`, or where that is None what
    suits the device. A wide network keeps a CPU's core busy by itself; an accelerator wants all jobs at once."""
    if group is not None:
        return group
    if accelerated():
        return sys.maxsize
    return HANDFUL if widths and max(widths) <= NARROW_LAYERS else 1


def map_groups(one: Callable[[Any], Any], packed: Any, group: int) -> Any:
    """`one` over the leading axis of `packed`: equal groups by `vmap`, the groups one after another by `lax.map`.

    The group used is the largest divisor of the axis up to `group`: a remainder would be compiled apart.
    """
    count = jax.tree.leaves(packed)[0].shape[0]
    size = max(g for g in range(1, min(group, count) + 1) if count % g == 0)
    if count == 1:  # a mapped axis of one would only cost transposes
        return jax.tree.map(lambda x: x[None], one(jax.tree.map(lambda x: x[0], packed)))
    if size == count:
        return jax.vmap(one)(packed)
    return jax.lax.map(one, packed, batch_size=size if size > 1 else None)


def map_jobs(one: Callable[[Any, Any], Any], shared: Any, packed: Any, group: int, mesh: Mesh | None = None) -> Any:
    """`map_groups` of `one(shared, entry)`. On the devices of a mesh, each goes through its own part of the axis."""

    def work(shared: Any, part: Any) -> Any:
        return map_groups(partial(one, shared), part, group)

    return work(shared, packed) if mesh is None else by_device(work, shared, packed, mesh)


def everywhere(tree: Any) -> Any:
    """Every leaf whole on every device in use; the same leaves where there is one."""
    return _placed(tree, 0)


def spread(tree: Any, jobs: int) -> Any:
    """Leaves with a leading axis of `jobs` in equal parts, one per device, if that divides evenly; others whole."""
    return _placed(tree, jobs)


def _placed(tree: Any, jobs: int) -> Any:
    mesh = current()

    def place(x: Any) -> Any:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        sharding = _sharding(x.shape, jobs, mesh)
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        host = np.asarray(x)
        # Copies: compiled chunks donate what they are given, and a buffer may be the host's own memory.
        return jax.make_array_from_callback(host.shape, sharding, lambda index: np.array(host[index]))

    return tree if mesh is None else jax.tree.map(place, tree)


def held(tree: Any, jobs: int, mesh: Mesh | None) -> Any:
    """Inside compiled code: keep leaves where `spread` puts them; with `jobs=0`, whole on every device."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, _sharding(x.shape, jobs, mesh)), tree)


def _sharding(shape: tuple[int, ...], jobs: int, mesh: Any) -> NamedSharding:
    split = jobs and shape[:1] == (jobs,) and jobs % mesh.size == 0
    return NamedSharding(mesh, PartitionSpec(AXIS) if split else PartitionSpec())


def local(tree: Any) -> Any:
    """Arrays of this process alone, fetched from wherever they lie; all processes must ask for them together."""
    mesh = current()
    if mesh is None:
        return tree
    whole = NamedSharding(mesh, PartitionSpec())
    if not all(x.is_fully_replicated or x.is_fully_addressable for x in jax.tree.leaves(tree)):
        tree = jax.jit(lambda t: t, out_shardings=whole)(tree)
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


def called(function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """`function(*args, **settings, mesh=...)`, a compiled one, on all devices in use; what it returns is local."""
    return local(function(*everywhere(args), **settings, mesh=current()))


@contextmanager
def leading() -> Iterator[Callable[[], None]]:
    """For the first process, around what it must do before the others may go on: it calls what this gives.

    If it leaves without having done so, by an error or because nothing is left to do, the others are told that too.
    """
    told = False

    def go() -> None:
        nonlocal told
        told = True
        agreed(np.int32(1))

    try:
        yield go
    finally:
        if not told:
            agreed(np.int32(0))


def may_follow() -> bool:
    """For the other processes: wait for the first, and say whether they may go on."""
    return bool(agreed(np.int32(0)))


@contextmanager
def company() -> Iterator[None]:
    """MerpoError in the place of a runtime's error where several processes work together: one of them was lost."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if hosts() == 1:
            raise
        raise MerpoError(
            f"process {jax.process_index()}: another process was lost or cannot be reached ({str(error)[:200]}). Start "
            "all of them again; with resume they go on from the last state."
        ) from error


def of_all(x: np.ndarray) -> np.ndarray:
    """Every process's `x` [process, ...], on every process."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x)).reshape(-1, *x.shape)


def agreed(tree: Any) -> Any:
    """The first process's values, on every process: what each has computed for itself may differ in its last bits."""
    if hosts() == 1:
        return tree
    from jax.experimental import multihost_utils

    return jax.tree.map(jnp.asarray, multihost_utils.broadcast_one_to_all(tree))


MAPPINGS = 30_000
"""Memory mappings of a process above which `spare_mappings` lets compiled functions go."""


def spare_mappings() -> None:
    """Let go of all compiled functions where the process holds many memory mappings: call it between pieces of work.

    Every compiled kernel holds some. Linux allows a process 65,530 (`vm.max_map_count`), and XLA crashes where it is
    refused one: a process that compiles for hours gets there. What is needed again is compiled
    anew, or read from disk.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MAPPINGS:
        jax.clear_caches()
        gc.collect()
