"""Random words and what is made of them, against exact integers and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from merpo import draws

EDGES = np.asarray([0, 1, 255, 256, 511, 512, 2**31 - 1, 2**31, 2**32 - 513, 2**32 - 512, 2**32 - 1], np.uint32)
WORDS = np.concatenate([EDGES, np.random.default_rng(0).integers(0, 2**32, 20000, dtype=np.uint32)])


def test_uniform_is_the_upper_24_bits():
    found = np.asarray(jax.jit(draws.uniform)(WORDS))
    np.testing.assert_array_equal(found, (WORDS >> 8) / 2.0**24)
    assert found.min() == 0.0
    assert found.max() < 1.0


def test_normal_is_the_quantile_of_the_upper_23_bits():
    found = np.asarray(jax.jit(draws.normal)(WORDS))
    assert np.isfinite(found).all()
    expected = stats.norm.ppf(((WORDS >> 9) + 0.5) / 2.0**23)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(draws.normal(~jnp.asarray(WORDS)), -found, rtol=1e-6)
    many = draws.normal(draws.words(jax.random.key(1), 50000))
    assert stats.kstest(many, "norm").pvalue > 1e-3


@pytest.mark.parametrize("size", [1, 2, 7, 9676, 2**16, 2**16 + 1, 10_000_019, 2**31 - 1])
def test_places_are_the_upper_word_of_the_product(size):
    found = np.asarray(jax.jit(draws.place)(WORDS, size))
    np.testing.assert_array_equal(found, [int(w) * size >> 32 for w in WORDS])
    assert found.max() == size - 1


def test_places_are_uniform_and_each_can_have_its_own_range():
    found = np.asarray(draws.place(draws.words(jax.random.key(2), 70000), 7))
    assert stats.chisquare(np.bincount(found, minlength=7)).pvalue > 1e-3
    sizes = jnp.asarray([1, 5, 0], jnp.int32)
    np.testing.assert_array_equal(draws.place(jnp.full(3, 2**32 - 1, jnp.uint32), sizes), [0, 4, 0])


def test_a_block_is_cut_into_all_of_its_parts():
    block = jnp.arange(12).reshape(2, 6)
    a, b, c = draws.cut(block, 1, 3, 2)
    np.testing.assert_array_equal(jnp.concatenate([a, b, c], axis=1), block)
    assert [x.shape for x in draws.cut(block, 6, 0)] == [(2, 6), (2, 0)]
    with pytest.raises(ValueError, match=r"widths=\(1, 3\): expected 6 together"):
        draws.cut(block, 1, 3)


def test_keys_from_words_draw_unlike_numbers():
    keys = draws.key_of(draws.words(jax.random.key(3), 200, draws.KEY_WORDS))
    assert keys.shape == (200,)
    found = np.asarray(jax.vmap(lambda k: jax.random.normal(k, (50,)))(keys))
    assert stats.kstest(found.ravel(), "norm").pvalue > 1e-3
    assert len(np.unique(found)) > 0.999 * found.size
