"""The similarity-weighted router: its formula, its limits, its files, and how it is measured."""

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routellm_core import Calibration, load_router, persistence
from routellm_core.data import Battles, Tiers
from routellm_core.encoders import HashingEncoder
from routellm_core.encoders.base import Encoder
from routellm_core.errors import ConfigurationError, DataError, RouterFormatError, UnknownKindError
from routellm_core.routers import sw
from routellm_core.routers.sw import SimilarityWeightedRouter
from routellm_core.testing import RouterContract
from routellm_core.training.run import LOG
from routellm_core.training.sw import train_sw

TIERS = {"a": 0, "b": 1, "b2": 1, "c": 2}


class TableEncoder(Encoder):
    """Vectors written out by hand."""

    kind = "table"
    dim = 2
    digest = "0" * 64

    def __init__(self, table):
        self.table = table

    def settings(self):
        return {"table": self.table}

    def _encode(self, texts):
        return np.array([self.table[text] for text in texts], dtype=np.float32)


def some_battles(n=300, n_models=9, seed=0, n_prompts=150):
    rng = np.random.default_rng(seed)
    models = [f"m{i}" for i in range(n_models)]
    words = np.array("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu".split())
    prompts = [" ".join(rng.choice(words, size=5)) for _ in range(n_prompts)]
    a = rng.integers(n_models, size=n)
    b = (a + rng.integers(1, n_models, size=n)) % n_models
    outcome = rng.choice([1, 0, -1], size=n, p=[0.45, 0.2, 0.35])
    chosen = rng.integers(n_prompts, size=n)
    return Battles.from_columns([prompts[i] for i in chosen], [models[i] for i in a], [models[i] for i in b], outcome)


def tiers_of(battles, k):
    return {model: i % k for i, model in enumerate(sorted(battles.models))}


def make(battles=None, k=4, dim=64, **changes):
    battles = battles if battles is not None else some_battles()
    arguments = {
        "encoder": HashingEncoder(dim),
        "tiers": tiers_of(battles, k),
        "strong": "m0",
        "weak": "m1",
    }
    return SimilarityWeightedRouter.from_battles(battles, **{**arguments, **changes})


def direct_win_rate(battles, similarity, tier, strong, weak):
    """A logistic regression over the battles as the paper has it: weights 10 * 10^(sim / max), every battle twice."""
    optimize = pytest.importorskip("scipy.optimize")
    special = pytest.importorskip("scipy.special")
    of = np.array([tier[m] for m in battles.models])
    n, k = len(battles), max(tier.values()) + 1
    x = np.zeros((n, k))
    x[np.arange(n), of[battles.model_a]] += np.log(10)
    x[np.arange(n), of[battles.model_b]] -= np.log(10)
    sims = similarity[battles.prompt_index]
    weight = np.tile(10 * 10 ** (sims / sims.max()), 2)
    x = np.concatenate([x, x])[:, 1:]  # only differences matter, so tier 0 stays at 0; older solvers never end else
    y = np.concatenate([battles.outcome >= 0, battles.outcome > 0])  # a tie is one win and one loss

    def loss(beta):
        margin = np.where(y, 1, -1) * (x @ beta)
        slope = -np.where(y, 1, -1) * special.expit(-margin) * weight
        return (weight * np.logaddexp(0, -margin)).sum(), x.T @ slope

    def curvature(beta):
        p = special.expit(x @ beta)
        return (x.T * (weight * p * (1 - p))) @ x

    found = optimize.minimize(
        loss, np.zeros(k - 1), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-8}
    )
    elo = 400 * np.concatenate([[0.0], found.x]) + 1000
    return 1 / (1 + 10 ** ((elo[tier[weak]] - elo[tier[strong]]) / 400))


class TestSimilarityWeighted(RouterContract):
    def make(self):
        router = make()
        router.calibration = Calibration.from_win_rates(router.own_win_rates(np.arange(50)))
        return router


# -- the formula
@pytest.mark.parametrize(("k", "seed"), [(2, 1), (4, 2), (9, 3)])
def test_it_is_the_full_weighted_fit_to_a_millionth(k, seed):
    battles = some_battles(400, seed=seed)
    router = make(battles, k=k)
    queries = ["alpha beta", "kappa nu nu mu", "zeta eta", "something else entirely", battles.prompts[0]]
    unit = [
        v / np.linalg.norm(v, axis=1, keepdims=True) for v in map(router.encoder.encode, (battles.prompts, queries))
    ]
    similarity = unit[1].astype(float) @ unit[0].T.astype(float)
    assert (similarity.max(axis=1) > 0).all()
    assert (similarity / similarity.max(axis=1, keepdims=True) > -10).all()  # the cut-off plays no part
    expected = [direct_win_rate(battles, s, tiers_of(battles, k), router.strong, router.weak) for s in similarity]
    np.testing.assert_allclose(router.win_rate(queries), expected, atol=1e-6)
    assert np.ptp(expected) > 0.01


def two_tiers():
    """Two prompts at right angles: on p the strong model wins 3 of 4, on q 1 of 4, one of them in two ties."""
    encoder = TableEncoder(
        {"p": [1, 0], "q": [0, 2], "like p": [5, 0], "both": [1, 1], "neither": [-1, -1], "": [0, 0]}
    )
    battles = Battles.from_columns(["p"] * 4 + ["q"] * 4, ["s"] * 8, ["w"] * 8, [1, 1, 1, -1, 0, 0, -1, -1])
    return SimilarityWeightedRouter.from_battles(battles, encoder=encoder, tiers={"s": 0, "w": 1}, strong="s", weak="w")


def test_two_tiers_by_hand():
    # with two tiers the fit is the weighted share of wins. Beside p, battles on p weigh 10^1 and on q 10^0:
    # (3 * 10 + 1) / (4 * 10 + 4) = 31/44. Between both, all weigh the same: 4 of 8
    np.testing.assert_allclose(two_tiers().win_rate(["like p", "both"]), [31 / 44, 0.5], atol=1e-7)


def test_where_nothing_is_similar_all_battles_weigh_the_same():
    # sim <= 0 everywhere, and a zero vector: 4 of 8
    np.testing.assert_allclose(two_tiers().win_rate(["neither", ""]), [0.5, 0.5], atol=1e-7)


def test_opposite_prompts_never_weigh_nothing():
    # the nearest at cosine .01, the other at -.99995: ratio -100, taken as -10, so 10^-11 of the nearer one's weight
    encoder = TableEncoder({"p": [0.01, 1], "q": [-1, 0], "query": [1, 0]})
    battles = Battles.from_columns(["p", "q"], ["s", "s"], ["w", "w"], [1, -1])
    router = SimilarityWeightedRouter.from_battles(
        battles, encoder=encoder, tiers={"s": 0, "w": 1}, strong="s", weak="w"
    )
    assert router.win_rate(["query"])[0] == pytest.approx(1 - 1e-11, abs=1e-13)


def test_ratings_of_three_tiers_are_on_the_elo_scale():
    # every pair of neighbours at odds 10 to 1, so 400 points apart, with a consistent 100 to 1 between the ends
    rows = [("a", "b", 10), ("b", "a", 1), ("b", "c", 10), ("c", "b", 1), ("a", "c", 100), ("c", "a", 1)]
    battles = Battles.from_columns(
        ["x"] * 123, [w for w, _, n in rows for _ in range(n)], [z for _, z, n in rows for _ in range(n)], [1] * 123
    )
    router = SimilarityWeightedRouter.from_battles(
        battles, encoder=HashingEncoder(16), tiers=TIERS, strong="a", weak="c"
    )
    np.testing.assert_allclose(router.model_scores(["x"]), [[1400, 1000, 1000, 600]], atol=1e-4)
    assert router.models == ("a", "b", "b2", "c")
    assert router.win_rate(["x"])[0] == pytest.approx(100 / 101, abs=1e-7)
    assert router.model_scores([]).shape == (0, 4)


def test_a_battle_inside_a_tier_counts_only_as_a_neighbour():
    # q has a battle between equals: it changes no wins, but it is the nearest prompt, so that p's ratio falls below 1
    encoder = TableEncoder({"p": [1, 0], "o": [0, 1], "q": [1, 1], "query": [1, 1]})
    battles = Battles.from_columns(["p", "o", "p", "q"], ["s", "s", "s", "b"], ["b", "b", "b", "b2"], [1, 1, -1, 1])
    router = SimilarityWeightedRouter.from_battles(
        battles, encoder=encoder, tiers={"s": 0, "b": 1, "b2": 1}, strong="s", weak="b"
    )
    assert router.win_rate(["query"])[0] == pytest.approx(2 / 3, abs=1e-7)
    # beside p: p 10^1, q is at cosine .707, o at 0: (10 + 1) / (20 + 1)
    assert router.win_rate(["p"])[0] == pytest.approx(11 / 21, abs=1e-7)


def test_blocks_and_single_prompts_agree(monkeypatch):
    router = make()
    prompts = [f"alpha {i} beta" for i in range(20)]
    whole, own = router.win_rate(prompts), router.own_win_rates(np.arange(20))
    monkeypatch.setattr(sw, "_BLOCK_FLOATS", 7 * len(router.vectors))
    monkeypatch.setattr(sw, "_CACHE_FLOATS", 3 * len(router.vectors))
    monkeypatch.setattr(sw, "_FITS", 8)
    np.testing.assert_allclose(router.win_rate(prompts), whole, atol=1e-7)
    np.testing.assert_allclose(router.own_win_rates(np.arange(20)), own, atol=1e-7)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 7), st.integers(0, 2**31), st.floats(0, 12))
def test_the_newton_steps_find_ratings_that_explain_the_wins(k, seed, spread):
    # at the maximum each tier's expected wins are its wins; weights over up to twelve decades
    rng = np.random.default_rng(seed)
    wins = 10 ** (-spread * rng.random((3, k, k)))
    wins[:, np.arange(k), np.arange(k)] = 0
    found = sw._bradley_terry(wins, np.zeros(k))
    chance = 1 / (1 + np.exp(found[:, None, :] - found[:, :, None]))
    expected = ((wins + wins.transpose(0, 2, 1)) * chance).sum(axis=2)
    np.testing.assert_allclose(expected, wins.sum(axis=2), rtol=1e-6)
    assert (found[:, 0] == 0).all()


# -- its own prompts
def test_an_own_prompt_is_scored_without_the_battles_of_its_group():
    battles = some_battles()
    groups = np.arange(len(battles.prompts))
    groups[[0, 1]] = 0
    battles = battles.with_groups(groups)
    without = make(battles.take(~np.isin(battles.prompt_index, [0, 1])), tiers=tiers_of(battles, 4))
    whole = make(battles)
    np.testing.assert_allclose(whole.own_win_rates([0, 1]), without.win_rate(battles.prompts[:2]), atol=1e-6)
    assert abs(whole.own_win_rates([0]) - whole.win_rate(battles.prompts[:1])) > 1e-3
    assert whole.own_win_rates([]).shape == (0,)


# -- other pairs, more battles
def test_another_pair_is_rated_from_the_same_battles():
    router = make()
    turned = router.for_pair(router.weak, router.strong)
    np.testing.assert_allclose(turned.win_rate(["alpha"]), 1 - router.win_rate(["alpha"]), atol=1e-9)
    assert turned.calibration is None
    with pytest.raises(UnknownKindError, match="m0, m1"):
        router.for_pair("gpt-9", "m1")


def test_adding_battles_is_building_from_all_of_them():
    battles = some_battles()
    first, second = battles.take(np.arange(200)), battles.take(np.arange(200, 300))
    tiers = tiers_of(battles, 3)
    grown = make(first, tiers=tiers, strong="m0", weak="m1").add(second)
    whole = make(battles, tiers=tiers, strong="m0", weak="m1")
    np.testing.assert_allclose(grown.win_rate(["alpha", "mu nu"]), whole.win_rate(["alpha", "mu nu"]), atol=1e-7)
    assert not np.isin(grown.groups[len(first.prompts) :], grown.groups[: len(first.prompts)]).any()


def test_a_new_model_is_added_with_its_tier_or_not_at_all():
    router = make()
    more = Battles.from_columns(["alpha"], ["new"], ["m0"], [1])
    with pytest.raises(UnknownKindError, match="no tier for new"):
        router.add(more)
    with pytest.raises(ConfigurationError, match="of tier 0 here, not 1"):
        router.add(more, tiers={"new": 1, "m0": 1})
    assert "new" not in router.models
    grown = router.add(more, tiers={"new": 1})
    assert grown.models[-1] == "new"
    assert grown.for_pair("new", "m0").weak == "m0"


# -- files
def heap_copy(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return not isinstance(array, (mmap.mmap, memoryview))


def test_a_loaded_router_leaves_its_vectors_in_the_file(tmp_path):
    router = make()
    router.save(tmp_path / "r")
    loaded = load_router(tmp_path / "r")
    assert heap_copy(router.vectors)
    assert not heap_copy(loaded.vectors)
    assert not loaded.vectors.flags.writeable
    assert not heap_copy(loaded.for_pair(router.weak, router.strong).vectors)
    # saving over the folder it is mapped from leaves it usable
    before = loaded.win_rate(["alpha"])
    loaded.save(tmp_path / "r")
    make(some_battles(seed=9)).save(tmp_path / "r")
    np.testing.assert_array_equal(loaded.win_rate(["alpha"]), before)


def test_vectors_of_unit_length_are_used_where_they_are():
    battles = some_battles()
    router = make(battles)
    assert make(battles, vectors=router.vectors).vectors is router.vectors
    vectors = 3 * router.vectors
    kept = vectors.copy()
    np.testing.assert_allclose(make(battles, vectors=vectors).vectors, router.vectors, atol=1e-6)
    np.testing.assert_array_equal(vectors, kept)


def test_a_mapped_file_is_checked_like_one_that_is_read(tmp_path):
    make().save(tmp_path / "r")
    path = tmp_path / "r" / "model.safetensors"
    content = path.read_bytes()
    for damaged in (b"", content[:7], content[:100], content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(RouterFormatError):
            load_router(tmp_path / "r")


def test_every_kind_of_tensor_can_be_mapped(tmp_path):
    kinds = "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ?".split()
    tensors = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    tensors["empty"] = np.zeros((0, 3), dtype=np.float32)
    sha = persistence.write_tensors(tmp_path, tensors)
    for mapped in (
        persistence.read_tensors(tmp_path, sha, mapped=True),
        persistence.read_tensors(tmp_path, mapped=True),
    ):
        assert mapped.keys() == tensors.keys()
        for name, array in tensors.items():
            np.testing.assert_array_equal(mapped[name], array)
            assert (mapped[name].dtype, mapped[name].shape) == (array.dtype, array.shape)


# -- what cannot be used
def test_a_tier_that_never_lost_has_no_rating():
    # c beats a and b; a and b beat each other
    battles = Battles.from_columns(["x"] * 3, ["a", "b", "c"], ["b", "a", "a"], [1, 1, 1])
    with pytest.raises(DataError, match=r"tier 2 \(c\) never lost"):
        make(battles, tiers=TIERS, strong="a", weak="b")
    with pytest.raises(DataError, match=r"tier 2 \(c\) never (won|lost)"):  # no battle at all
        make(battles.take([0, 1]), tiers=TIERS, strong="a", weak="b")


def test_tiers_that_never_won_together_are_named_together():
    # d and e beat each other and lose to the circle a > b > c > a
    winners, losers = list("abcadeb"), list("bcadede")
    battles = Battles.from_columns(["x"] * 7, winners, losers, [1] * 7)
    tiers = {model: i for i, model in enumerate("abcde")}
    with pytest.raises(DataError, match=r"tier 3 \(d\), tier 4 \(e\) never won"):
        make(battles, tiers=tiers, strong="a", weak="b")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((3, 8)), "row 0"),
        (np.zeros((2, 64)), "2 vectors for 3"),
        ([[0.0] * 64, [0.0] * 63, [0.0] * 64], "vector 1"),
        (np.array([[0.0] * 64, [0.0] * 64, [0.0] * 63 + [np.nan]]), "vector 2"),
        (np.array([[0.0] * 64, [np.inf] * 64, [0.0] * 64]), "vector 1"),
        (["x", "y", "z"], "vector 0"),
        ("text", "no array"),
    ],
)
def test_vectors_that_do_not_fit_are_named_by_row(vectors, message):
    battles = Battles.from_columns(["x", "y", "z"], ["a", "b", "a"], ["b", "a", "b"], [1, 1, 1])
    with pytest.raises(DataError, match=message):
        make(battles, tiers={"a": 0, "b": 1}, strong="a", weak="b", vectors=vectors)


@pytest.mark.parametrize(
    ("tiers", "error"),
    [
        ({"a": 0, "b": 0}, DataError),
        ({"a": 0}, UnknownKindError),
        ({"a": 0, "b": 2}, DataError),
        ({"a": 0, "b": -1}, DataError),
        ({"a": 0, "b": 1.0}, DataError),
        ({"a": 0, "b": True}, DataError),
        ({}, UnknownKindError),
    ],
)
def test_tiers_that_cannot_be_used_are_refused(tiers, error):
    battles = Battles.from_columns(["x", "y"], ["a", "b"], ["b", "a"], [1, 1])
    with pytest.raises(error):
        make(battles, tiers=tiers, strong="a", weak="b")


def test_models_of_one_tier_and_empty_battles_are_refused():
    battles = some_battles()
    with pytest.raises(ConfigurationError, match="of the same tier"):
        make(battles, strong="m0", weak="m4")
    with pytest.raises(DataError, match="no battles"):
        make(battles.take([]), tiers={"a": 0, "b": 1}, strong="a", weak="b")


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_index": [0, 5]},
        {"winners": [0, 2]},
        {"losers": [1, 1]},
        {"counts": [1.0, 0.0]},
        {"counts": [1.0, np.nan]},
        {"counts": [1.0]},
        {"groups": [0]},
    ],
)
def test_entries_that_do_not_fit_are_refused(changes):
    arguments = {
        **{"encoder": HashingEncoder(16), "vectors": np.eye(2, 16), "tiers": {"a": 0, "b": 1}},
        **{"prompt_index": [0, 1], "winners": [0, 1], "losers": [1, 0], "counts": [1.0, 1.0]},
        **{"strong": "a", "weak": "b"},
    }
    assert SimilarityWeightedRouter(**arguments).win_rate(["x"]).shape == (1,)
    with pytest.raises(DataError):
        SimilarityWeightedRouter(**{**arguments, **changes})


# -- training
def test_training_builds_calibrates_measures_and_saves(tmp_path):
    battles = some_battles()
    tiers = tiers_of(battles, 3)
    result = train_sw(
        battles, encoder=HashingEncoder(64), tiers=tiers, strong="m0", weak="m1", sample=80, out=tmp_path / "r"
    )
    router = result.router
    assert router.calibration.win_rates.size == 80
    rows = np.random.default_rng(0).permutation(len(battles.prompts))[:80]
    np.testing.assert_array_equal(router.calibration.win_rates, np.sort(router.own_win_rates(rows)))
    row = result.log[0]
    assert (row["battles"], row["prompts"], row["models"]) == (300, len(battles.prompts), 9)
    assert row["validation_loss"] > 0
    loaded = load_router(tmp_path / "r")
    np.testing.assert_array_equal(loaded.win_rate(["alpha"]), router.win_rate(["alpha"]))
    assert loaded.calibration.threshold == router.calibration.threshold
    assert (tmp_path / "r" / LOG).exists()


def test_training_takes_the_tiers_of_the_pipeline_and_given_vectors():
    battles = some_battles()
    by_tier = [[m for m, t in tiers_of(battles, 3).items() if t == tier] for tier in range(3)]
    tiers = Tiers(tiers=tuple(map(tuple, by_tier)), ratings=tuple((0.0,) * len(each) for each in by_tier))
    encoder = HashingEncoder(64)
    arguments = {"encoder": encoder, "strong": "m0", "weak": "m1"}
    one = train_sw(battles, tiers=tiers, vectors=encoder.encode(battles.prompts), **arguments)
    other = train_sw(battles, tiers=tiers_of(battles, 3), **arguments)
    np.testing.assert_allclose(one.router.win_rate(["alpha"]), other.router.win_rate(["alpha"]), atol=1e-9)
    with pytest.raises(DataError, match="row 0"):
        train_sw(battles, tiers=tiers, vectors=np.zeros((len(battles.prompts), 32)), **arguments)


def test_battles_of_models_without_a_tier_are_left_out_and_counted():
    battles = some_battles()
    tiers = {model: tier for model, tier in tiers_of(battles, 3).items() if model != "m8"}
    number = battles.models.index("m8")
    rest = battles.take((battles.model_a != number) & (battles.model_b != number))
    arguments = {"encoder": HashingEncoder(64), "tiers": tiers, "strong": "m0", "weak": "m1"}
    result = train_sw(battles, **arguments)
    assert result.log[0]["unrated_battles"] == len(battles) - len(rest) > 0
    same = train_sw(rest, **arguments)
    assert same.log[0]["unrated_battles"] == 0
    np.testing.assert_array_equal(result.router.win_rate(["alpha", "nu"]), same.router.win_rate(["alpha", "nu"]))
    with pytest.raises(UnknownKindError, match="no tier for m8"):
        train_sw(battles, **arguments, drop_unrated=False)


def test_a_pair_that_never_met_is_trained_without_validation():
    battles = some_battles()
    pair = [battles.models.index("m0"), battles.models.index("m1")]
    battles = battles.take(~np.isin(battles.model_a, pair) | ~np.isin(battles.model_b, pair))
    result = train_sw(battles, encoder=HashingEncoder(64), tiers=tiers_of(battles, 3), strong="m0", weak="m1")
    assert result.log[0]["validation_loss"] is None
    assert result.log[0]["validation_apgr"] is None


def test_the_tensors_file_has_the_usual_permissions_and_no_remains_beside_it(tmp_path):
    make().save(tmp_path / "r")
    files = {path.name: path.stat().st_mode for path in (tmp_path / "r").iterdir()}
    assert files.keys() == {"config.json", "model.safetensors"}
    assert files["model.safetensors"] == files["config.json"]


def test_what_can_be_refused_is_refused_before_anything_is_encoded(tmp_path):
    class Unpaid(HashingEncoder):
        def _encode(self, texts):
            pytest.fail("vectors may cost money")

    battles = some_battles()
    (tmp_path / "notes").write_text("mine")
    tiers = tiers_of(battles, 4)
    arguments = {"encoder": Unpaid(8), "tiers": tiers, "strong": "m0", "weak": "m1"}
    for changes in ({"weak": "m4"}, {"sample": 0}, {"sample": "x"}, {"drop_unrated": "no"}, {"seed": -1}):
        with pytest.raises(ConfigurationError):
            train_sw(battles, **{**arguments, **changes})
    with pytest.raises(ConfigurationError, match="does not hold a saved router"):
        train_sw(battles, **arguments, out=tmp_path / "notes")
    with pytest.raises(UnknownKindError, match="nobody"):
        train_sw(battles, **{**arguments, "weak": "nobody"})
    always = battles.with_outcome(np.where(np.array([tiers[battles.models[i]] == 0 for i in battles.model_a]), 1, -1))
    with pytest.raises(DataError, match="make fewer tiers"):
        one_sided = always.take([tiers[battles.models[i]] == 0 for i in battles.model_a])
        train_sw(one_sided, **arguments)
