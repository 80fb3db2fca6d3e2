"""Strict by default: no silent dtype or rank promotion, and every array signature checked by beartype."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

# Before anything of merpo is imported, so that every jaxtyping signature is enforced in the tests.
install_import_hook("merpo", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


MAPPINGS = 30_000
"""Memory mappings of a process above which compiled functions are let go. Every kernel that is compiled holds some;
Linux allows 65,530 (`vm.max_map_count`), and the compiler crashes where it is refused one."""


@pytest.fixture(autouse=True, scope="module")
def bounded_mappings():
    """A worker that compiled for a thousand tests would run out of mappings."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key():
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of the module's own, with the data sets in it; no compilation cache."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERPO_DATA_DIR", str(folder / "data"))
        patch.setenv("MERPO_CACHE_DIR", "off")
        patch.delenv("MERPO_DEBUG", raising=False)
        yield folder


@pytest.fixture(scope="module")
def whole_commands():
    """For modules that run whole commands on tiny settings: compilation is nearly all the time there is."""
    changes = {
        "jax_disable_most_optimizations": True,
        # optax counts its steps in int32 and raises a float to them; threads do not inherit a context manager
        "jax_numpy_dtype_promotion": "standard",
    }
    before = {name: jax.config.values[name] for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
