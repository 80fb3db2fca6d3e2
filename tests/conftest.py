"""Strict by default: no silent dtype or rank promotion, and every array signature checked by beartype."""

import os
import shutil
import tempfile
from contextlib import contextmanager

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is compilation, so compile lightly, as `merpo quickstart` does; XLA_FLAGS= is as users do.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false")

from jaxtyping import install_import_hook

# Before anything of merpo is imported, so that every jaxtyping signature is enforced in the tests.
install_import_hook("merpo", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """One folder of compiled functions for all workers and the processes they start, empty at first."""
    if not hasattr(config, "workerinput") and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="merpo-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        compiled = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0.1}
        for name, value in compiled.items():
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)


@pytest.fixture(autouse=True, scope="module")
def spared_mappings():
    """A worker that compiles for a thousand tests would run out of memory mappings."""
    from merpo.devices import spare_mappings

    yield
    spare_mappings()


@pytest.fixture
def key():
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of the module's own, with the data sets in it; compiled functions go where the tests' others do."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERPO_DATA_DIR", str(folder / "data"))
        patch.setenv("MERPO_CACHE_DIR", "off")
        patch.delenv("MERPO_DEBUG", raising=False)
        yield folder


@contextmanager
def configured(**changes):
    """JAX's settings changed for a while; threads do not inherit those of JAX's own context managers."""
    before = {name: jax.config.values[name] for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def quick_compilation():
    """For modules that learn on tiny settings: compilation is nearly all the time there is."""
    with configured(jax_disable_most_optimizations=True):
        yield


@pytest.fixture(scope="module")
def whole_commands(quick_compilation):
    """For modules that run whole commands: optax counts its steps in int32 and raises a float to them."""
    with configured(jax_numpy_dtype_promotion="standard"):
        yield
