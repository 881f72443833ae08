"""Soft clusters of prompts, and fits to bases whose encoder is not static."""

from __future__ import annotations

import numpy as np
import pytest

from routellm_core import fit_router, load_router
from routellm_core.encoders import HashingEncoder, StackedEncoder
from routellm_core.encoders.base import ENCODERS
from routellm_core.encoders.ngrams import WordTokens
from routellm_core.encoders.topics import Topics
from routellm_core.errors import ConfigurationError
from routellm_core.evaluation import apgr
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.routers.fitted import tokenizing_part
from routellm_core.training import add_fitted_model
from routellm_core.training.find_topics import find_topics

pytest.importorskip("scipy")
pytest.importorskip("sklearn")


class SlowEncoder(HashingEncoder):
    """Stands for an encoder with a network: it takes time, and has no tokenizer to share."""

    kind = "slow"
    is_quick = False


@pytest.fixture(autouse=True)
def slow_is_known(monkeypatch):
    monkeypatch.setitem(ENCODERS.table, "slow", f"{__name__}:SlowEncoder")


def base(encoder):
    weights = np.linspace(-1, 1, encoder.dim, dtype=np.float32)
    return DifficultyRouter(encoder=encoder, weights=weights, bias=0.3, slope=1.0, intercept=0.0, name="own")


def two_clusterings():
    """Of two clusters at (1, 0) and (0, 1), sharpness 1, and of one cluster at (1, 0)."""
    return Topics(
        mean=np.array([1.0, 1.0]),
        centroids=np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]),
        offsets=np.array([-1.0, -1.0, -1.0]),
        sizes=np.array([2, 1]),
    )


def test_memberships_are_a_softmax_of_squared_distances_in_each_clustering():
    # (4, 1) less the mean is (3, 0), of length one (1, 0): squared distances 0 and 2 from the two centroids
    near, far = np.exp(0) / (np.exp(0) + np.exp(-2)), np.exp(-2) / (np.exp(0) + np.exp(-2))
    expected = np.array([[near, far, 1.0], [0.5, 0.5, 1.0]]) / np.sqrt(2)
    assert two_clusterings().memberships(np.array([[4.0, 1.0], [1.0, 1.0]])) == pytest.approx(expected)


def test_without_clusters_there_are_no_memberships_and_nothing_is_saved():
    none = Topics.none()
    assert none.memberships(np.zeros((3, 0))).shape == (3, 0)
    assert none.tensors() == {} and Topics.of_tensors({"weights": np.zeros(2)}).n_clusters == 0


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("centroids", np.zeros((3, 5)), "centroids has shape"),
        ("offsets", np.array([0.0, np.nan, 0.0]), "offsets holds values that are not finite"),
        ("sizes", np.array([3, 0]), "a clustering without any cluster"),
    ],
)
def test_topics_that_do_not_fit_are_refused(name, array, message):
    with pytest.raises(ConfigurationError, match=message):
        Topics(**{**two_clusterings().arrays, name: array})


def test_groups_that_lie_apart_are_found():
    rng = np.random.default_rng(0)
    group = np.arange(90) % 3
    embedding = np.eye(8)[group] + 0.01 * rng.normal(size=(90, 8))
    topics = find_topics(embedding, rng=rng)
    assert topics.arrays["sizes"].tolist() == [8, 8, 8, 16, 16, 16, 22, 22, 22]  # at most a cluster for 4 prompts
    shares = topics.memberships(embedding)
    alike = shares @ shares.T  # 1 would be the very same memberships; finer clusters split a group, but never join two
    same = group[:, None] == group
    assert alike[~same].max() < 1e-6 < 0.1 < alike[same].mean()


def test_prompts_that_are_all_the_same_make_one_cluster():
    topics = find_topics(np.full((30, 4), 0.5), rng=np.random.default_rng(0))
    assert topics.arrays["sizes"].tolist() == [1] * 9
    assert topics.memberships(np.full((2, 4), 0.5)) == pytest.approx(np.full((2, 18 // 2), 1 / 3))


KINDS = ("arithmetic", "astronomy", "law", "cooking", "chess", "poetry", "anatomy", "tax", "opera", "rowing")


def task(n, seed):
    """Ten kinds of prompt, five of which the weak model fails at."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(len(KINDS), size=n)
    prompts = [f"a question about {KINDS[k]}, number {rng.integers(10_000)}" for k in kind]
    return prompts, np.ones(n), np.where((kind % 2 == 1) ^ (rng.random(n) < 0.1), 0.0, 1.0)


@pytest.fixture(scope="module")
def fitted():
    prompts, strong, weak = task(250, 0)
    return fit_router(
        prompts,
        strong_scores=strong,
        weak_scores=weak,
        base=base(SlowEncoder(64)),
        metadata={"tier": ["free", "paid"] * 125},
        learning_curve=False,
    ).router


def test_a_base_without_a_tokenizer_is_fitted_on_words_and_topics(fitted):
    prompts, strong, weak = task(500, 1)
    # half of the prompts are hard: .75 is what the best order reaches without noise
    assert apgr(fitted.win_rate(prompts, metadata={"tier": [None] * 500}), strong, weak) > 0.65
    assert fitted.topics.n_clusters == 3 * (8 + 16 + 32)
    assert np.abs(fitted.arrays["topic_weights"]).max() > 0
    assert isinstance(tokenizing_part(StackedEncoder([SlowEncoder(8)])), WordTokens)


def test_a_batch_counts_as_its_prompts_alone(fitted):
    prompts = task(20, 2)[0]
    alone = [fitted.win_rate([prompt])[0] for prompt in prompts]
    assert fitted.win_rate(prompts) == pytest.approx(alone, abs=1e-9)


def test_topics_are_saved_and_serve_every_pair_and_new_models(fitted, tmp_path):
    prompts, _, weak = task(60, 3)
    wider = add_fitted_model(fitted, prompts, 1.0 - weak, "new")
    wider.save(tmp_path / "router")
    loaded = load_router(tmp_path / "router")
    assert loaded.topics.n_clusters == fitted.topics.n_clusters
    assert loaded.model_scores(prompts).tolist() == wider.model_scores(prompts).tolist()
    assert wider.model_scores(prompts)[:, :2] == pytest.approx(fitted.model_scores(prompts))
    # the new model is good where the weak one is bad, which its weights of the topics are a part of
    assert np.corrcoef(wider.arrays["topic_weights"][:, 2], wider.arrays["topic_weights"][:, 0])[0, 1] < -0.5
    assert np.isfinite(wider.for_pair("new", "weak").win_rate(prompts)).all()


def test_a_quick_encoder_gets_no_topics():
    prompts, strong, weak = task(40, 4)
    result = fit_router(
        prompts, strong_scores=strong, weak_scores=weak, base=base(HashingEncoder(64)), learning_curve=False
    )
    assert result.router.topics.n_clusters == 0


def test_the_difficulty_of_a_fit_is_that_of_its_base():
    prompts, strong, weak = task(40, 5)
    router = base(SlowEncoder(64))
    result = fit_router(prompts, strong_scores=strong, weak_scores=weak, base=router, learning_curve=False)
    own = router.difficulty(prompts) - router.bias
    assert result.router.arrays["scale"].tolist() == pytest.approx([own.mean(), own.std()], abs=1e-6)


def test_words_are_lower_case_and_marks_stand_alone():
    one, other = WordTokens().tokens(["Is 2+2 four?", "is 2 + 2 FOUR ?"])
    assert one == other and len(one) == 6 and len(set(one)) == 5
    assert WordTokens().tokens(["", "\ud800"])[0] == []
