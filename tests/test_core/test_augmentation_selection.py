"""Which prompts to label."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routellm_core.augmentation import select_prompts
from routellm_core.augmentation.selection import _shares
from routellm_core.encoders import HashingEncoder
from routellm_core.errors import ConfigurationError, DataError

pytest.importorskip("sklearn")


def groups(sizes, rng):
    """Well separated heaps of vectors, and the heap of each."""
    centres = 100.0 * np.eye(len(sizes))
    heap = np.repeat(np.arange(len(sizes)), sizes)
    return centres[heap] + rng.standard_normal((heap.size, len(sizes))), heap


def test_every_group_gets_its_share():
    rng = np.random.default_rng(0)
    vectors, heap = groups((60, 30, 10), rng)
    # 15 labels: 3 clusters, which are the heaps; 15 x .6, .3 and .1 are 9, 4.5 and 1.5, and the first larger
    # remainder gets the one left over
    chosen = select_prompts(vectors, rng.random(100), 15, rng=np.random.default_rng(1))
    assert sorted(np.bincount(heap[chosen]).tolist()) in ([1, 5, 9], [2, 4, 9])


def test_within_a_group_the_least_sure_are_chosen():
    vectors = np.zeros((9, 2))
    rates = np.array([0.1, 0.2, 0.45, 0.5, 0.52, 0.6, 0.7, 0.8, 0.9])  # the median is .52
    assert select_prompts(vectors, rates, 3, rng=np.random.default_rng(0)).tolist() == [2, 3, 4]


@given(
    st.integers(1, 40),
    st.integers(1, 6),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_n_different_prompts_are_chosen_whatever_they_are_like(total, width, data):
    n = data.draw(st.integers(1, total))
    values = data.draw(st.lists(st.integers(0, 2), min_size=total * width, max_size=total * width))
    rates = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=total, max_size=total))
    vectors = np.array(values, dtype=float).reshape(total, width)
    chosen = select_prompts(vectors, rates, n, rng=np.random.default_rng(0))
    assert chosen.shape == (n,)
    assert np.unique(chosen).size == n
    assert 0 <= chosen.min() and chosen.max() < total
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, select_prompts(vectors, rates, n, rng=np.random.default_rng(0)))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.data())
def test_shares_are_within_one_of_proportion_and_sum_to_n(sizes, data):
    array = np.array(sizes)
    n = data.draw(st.integers(1, int(array.sum())))
    shares = _shares(array, n)
    assert shares.sum() == n
    assert (np.abs(shares - n * array / array.sum()) < 1.0).all()
    assert (shares <= array).all()


def test_units_of_a_column_do_not_matter():
    rng = np.random.default_rng(0)
    vectors, _ = groups((30, 30), rng)
    rates = rng.random(60)
    scaled = vectors * np.array([1000.0, 0.001])
    choose = [select_prompts(v, rates, 12, rng=np.random.default_rng(3)) for v in (vectors, scaled)]
    assert np.array_equal(*choose)


def test_texts_are_encoded():
    encoder = HashingEncoder(dim=16)
    texts = [f"prompt number {i}" for i in range(20)]
    rates = np.linspace(0, 1, 20)
    chosen = select_prompts(texts, rates, 10, rng=np.random.default_rng(0), encoder=encoder)
    assert np.array_equal(chosen, select_prompts(encoder.encode(texts), rates, 10, rng=np.random.default_rng(0)))


def test_bad_input_is_named():
    vectors, rates, rng = np.ones((4, 2)), np.full(4, 0.5), np.random.default_rng(0)
    for n in (0, 5, True, -1):
        with pytest.raises(ConfigurationError, match="between 1 and the 4 prompts"):
            select_prompts(vectors, rates, n, rng=rng)
    with pytest.raises(ConfigurationError, match="texts with encoder="):
        select_prompts(["a", "b"], [0.1, 0.2], 1, rng=rng)
    with pytest.raises(DataError, match=r"win rates have shape \(3,\) for 4 prompts"):
        select_prompts(vectors, rates[:3], 1, rng=rng)
    bad = vectors.copy()
    bad[2, 0] = np.nan
    with pytest.raises(DataError, match="row 2: the vector is not finite"):
        select_prompts(bad, rates, 1, rng=rng)
    with pytest.raises(DataError, match="row 1: the win rate is not finite"):
        select_prompts(vectors, [0.1, np.inf, 0.1, 0.1], 1, rng=rng)
