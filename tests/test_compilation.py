"""How hard XLA tries: less on CPUs, unless the environment says how, and never inside of other compiled functions."""

import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from merpo import compilation
from merpo.compilation import compiled


@pytest.fixture
def unknown(monkeypatch):
    """An option that XLA refuses, so that one sees whether it gets there."""
    monkeypatch.setattr(compilation, "LIGHT", {"xla_no_such_option": 1})
    monkeypatch.setenv("XLA_FLAGS", "")


@compiled(static_argnames=("times",), donate_argnums=(0,))
def scaled(x, *, times):
    """x times so much."""
    return x * times


def test_options_reach_the_compiler(unknown):
    with pytest.raises(Exception, match="xla_no_such_option"):
        compiled()(lambda x: x + 1)(1.0)


def test_what_the_environment_says_comes_first(unknown, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_option=3")
    assert compiled()(lambda x: x + 1)(1.0) == 2


def test_accelerators_compile_as_ever(unknown, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled()(lambda x: x + 1)(1.0) == 2


def test_inside_of_another_compiled_function(unknown):
    inner = compiled()(lambda x: x + 1)
    assert jax.jit(lambda x: inner(x) * 2)(1.0) == 4


def test_it_is_jit_in_all_else(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    x = jax.numpy.ones(3)
    assert scaled(x, times=3).tolist() == [3, 3, 3]
    assert x.is_deleted()
    assert scaled._cache_size() == 1
    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == "x times so much."
    assert "stablehlo" in scaled.lower(jax.numpy.ones(3), times=2).as_text()
    with pytest.raises(AttributeError, match="no_such_method"):
        scaled.no_such_method  # noqa: B018


def test_threads_share_what_is_compiled(monkeypatch):
    made = []

    def slow(*args, **kwargs):
        made.append(args)
        time.sleep(0.05)
        return lambda x: x

    monkeypatch.setattr(jax, "jit", slow)
    shared = compiled()(abs)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(shared, range(8))) == list(range(8))
    assert len(made) == 1
