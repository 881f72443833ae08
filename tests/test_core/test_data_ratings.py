"""Ratings against an independent fit, tiers against brute force."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core.data import Battles, Ratings, Tiers, make_tiers, rate
from routellm_core.data.elo import fit_bradley_terry
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError

A, T, B = 1, 0, -1


def battles(*rows):
    prompts = [f"prompt {i}" for i in range(len(rows))]
    a, b, outcome = zip(*rows, strict=True)
    return Battles.from_columns(prompts, a, b, outcome)


def random_battles(n_models, n, seed=0, ties=0.1):
    rng = np.random.default_rng(seed)
    strength = rng.normal(size=n_models)
    a = rng.integers(n_models, size=n)
    b = (a + 1 + rng.integers(n_models - 1, size=n)) % n_models
    wins = rng.random(n) < 1 / (1 + np.exp(strength[b] - strength[a]))
    outcome = np.where(rng.random(n) < ties, T, np.where(wins, A, B))
    return battles(*zip([f"m{i}" for i in a], [f"m{i}" for i in b], outcome.tolist(), strict=True))


def direct_fit(given):
    """Logistic regression over rows, as the definition has it: each battle twice, base 10, 400 points, 1000."""
    from scipy.optimize import minimize

    rows = []
    for a, b, outcome in zip(given.model_a, given.model_b, given.outcome, strict=True):
        row = np.zeros(len(given.models))
        row[a], row[b] = 1, -1
        # rows of winner minus loser: a win twice, a tie once each way
        rows += {A: [row, row], B: [-row, -row], T: [row, -row]}[int(outcome)]
    x = np.array(rows) * np.log(10)

    def loss(w):
        return np.logaddexp(0, -(x @ w)).sum()

    def gradient(w):
        return -(x / (1 + np.exp(x @ w))[:, None]).sum(axis=0)

    w = np.zeros(len(given.models))
    # one minimiser stops where the loss is flat to rounding; started again there it comes closer
    for _ in range(3):
        w = minimize(loss, w, jac=gradient, method="BFGS", options={"gtol": 1e-9, "xrtol": 0}).x
    return dict(zip(given.models, 400 * (w - w.mean()) + 1000, strict=True))


class TestRatings:
    def test_two_models_are_rated_by_their_odds(self):
        # 3 wins to 1: 400 * log10(3) = 190.85 points apart, around 1000
        ratings = rate(battles(("x", "y", A), ("y", "x", B), ("x", "y", A), ("x", "y", B)))
        assert ratings.models == ("x", "y")
        assert ratings.values == pytest.approx([1000 + 95.4243, 1000 - 95.4243], abs=1e-4)

    def test_a_tie_is_half_a_win_for_each(self):
        # 1.5 to 0.5
        tied = rate(battles(("x", "y", A), ("x", "y", T)))
        assert tied.values == pytest.approx(rate(battles(*[("x", "y", A)] * 3, ("x", "y", B))).values, abs=1e-9)

    @pytest.mark.parametrize("seed", range(3))
    def test_they_are_those_of_a_direct_fit_of_all_battles(self, seed):
        given_battles = random_battles(8, 400, seed)
        ratings = rate(given_battles)
        direct = direct_fit(given_battles)
        assert len(ratings) == 8
        # in units of the coefficient, of which 400 make the rating
        assert ratings.values / 400 == pytest.approx([direct[m] / 400 for m in ratings.models], abs=1e-6)

    def test_a_lopsided_chain_of_models_still_converges_to_the_balance_of_wins(self):
        # each beats the next 500 to 1: 400 * log10(500) = 1079.588 points between neighbours
        rows = [(f"m{i}", f"m{i + 1}", o) for i in range(5) for o in [A] * 500 + [B]]
        ratings = rate(battles(*rows))
        assert np.diff(ratings.values) == pytest.approx([-1079.588] * 5, abs=1e-3)

    def test_where_whole_newton_steps_overshoot_the_fit_still_balances_wins(self):
        wins = np.zeros((7, 7))
        for winner, loser, count in [
            *[(0, 3, 1), (0, 4, 1e4), (1, 0, 1e3), (1, 2, 1e5), (1, 4, 10), (1, 6, 100), (2, 3, 1e5)],
            *[(3, 0, 1e4), (4, 5, 100), (4, 6, 100), (5, 1, 1), (5, 2, 1e4), (6, 2, 10)],
        ]:
            wins[winner, loser] = count
        strengths = fit_bradley_terry(wins)
        expected = (wins + wins.T) / (1 + np.exp(strengths[None, :] - strengths[:, None]))
        # at the maximum every model has won as often as it was expected to
        assert expected.sum(axis=1) == pytest.approx(wins.sum(axis=1), rel=1e-6)

    def test_the_anchor_is_found_by_its_usual_spelling_and_only_shifts(self):
        rows = [("x", "meta-llama/Llama-2-70b-chat-hf", A), ("meta-llama/Llama-2-70b-chat-hf", "x", A), ("x", "y", T)]
        ratings = rate(battles(*rows))
        assert ratings.anchor == "meta-llama/Llama-2-70b-chat-hf"
        assert ratings.of("llama-2-70b-chat") == pytest.approx(1082)
        other = rate(battles(*rows), anchor="X", anchor_rating=0.0)
        assert other.of("x") == pytest.approx(0.0, abs=1e-9)
        assert ratings.of("y") - ratings.of("x") == pytest.approx(other.of("y") - other.of("x"))

    def test_an_anchor_that_is_not_rated_is_an_error_only_when_it_was_named(self):
        rows = [("x", "y", A), ("y", "x", A), ("x", "llama-2-70b-chat", A)]
        assert rate(battles(*rows)).anchor is None
        with pytest.raises(UnknownKindError, match="anchor is not among the rated models"):
            rate(battles(*rows), anchor="llama-2-70b-chat")
        with pytest.raises(ConfigurationError, match="nan"):
            rate(battles(*rows), anchor_rating=float("nan"))

    def test_models_outside_the_largest_component_are_listed_with_the_reason(self):
        ratings = rate(
            battles(
                *[("x", "y", A), ("y", "z", A), ("z", "x", A)],  # a cycle
                ("x", "never won", A),
                ("never lost", "y", A),
                *[("p", "q", T), ("q", "r", T), ("p", "x", A)],  # three, tied; they beat the cycle, never the reverse
                ("s", "t", T),
                ("r", "u", T),
            ),
            anchor="p",
        )
        assert set(ratings.models) == {"p", "q", "r", "u"}
        assert ratings.unrated == {
            "x": "it has wins or losses against the rated models, if through others, but not both",
            "y": "it has wins or losses against the rated models, if through others, but not both",
            "z": "it has wins or losses against the rated models, if through others, but not both",
            "never won": "it won and tied no battle",
            "never lost": "it lost and tied no battle",
            "s": "no battles link it to the rated models",
            "t": "no battles link it to the rated models",
        }
        with pytest.raises(UnknownKindError, match="'s' has no rating: no battles link it"):
            ratings.of("s")

    def test_unrated_models_do_not_move_the_others(self):
        rows = [("x", "y", A), ("x", "y", A), ("y", "x", A)]
        alone = rate(battles(*rows))
        assert rate(battles(*rows, ("x", "loser", A))).to_dict() == pytest.approx(alone.to_dict())

    def test_nothing_to_rate_is_an_error(self):
        with pytest.raises(DataError, match="none of 2 models can be rated"):
            rate(battles(("x", "y", A), ("y", "x", B)))
        with pytest.raises(DataError, match="none of 0 models"):
            rate(battles(("x", "y", A)).take([]))


def brute_force(values, k):
    """Least sum of variances over all ways to cut the sorted values into k."""
    values = sorted(values)
    best = np.inf
    for cuts in combinations(range(1, len(values)), k - 1):
        ends = [*cuts, len(values)]
        starts = [0, *cuts]
        best = min(best, sum(np.var(values[i:j]) for i, j in zip(starts, ends, strict=True)))
    return best


class TestTiers:
    @given(
        st.lists(st.floats(0, 2000, allow_subnormal=False), min_size=1, max_size=9).flatmap(
            lambda values: st.tuples(st.just(values), st.integers(1, len(values)))
        )
    )
    def test_they_are_the_best_of_all_ways_to_cut(self, case):
        values, k = case
        tiers = make_tiers({f"m{i}": value for i, value in enumerate(values)}, k)
        assert tiers.variance == pytest.approx(brute_force(values, k), rel=1e-9, abs=1e-9)
        assert len(tiers) == k
        assert sorted(tiers.models) == sorted(f"m{i}" for i in range(len(values)))
        assert all(tiers.tiers)
        flat = [rating for each in tiers.ratings for rating in each]
        assert flat == sorted(values, reverse=True)

    def test_it_is_the_sum_of_variances_not_of_squares(self):
        # {0, 6} + {10, 10, 10, 16}: variances 9 + 6.75 = 15.75; {0} + {6, 10, 10, 10, 16}: 0 + 10.24.
        # Sums of squares would be 18 + 27 = 45 against 51.2, the other way round.
        tiers = make_tiers({"a": 0.0, "b": 6.0, "c": 10.0, "d": 10.0, "e": 10.0, "f": 16.0}, 2)
        assert tiers.tiers == (("f", "c", "d", "e", "b"), ("a",))
        assert tiers.variance == pytest.approx(10.24)

    def test_large_ratings_far_from_zero_lose_no_digits(self):
        values = [1e9, 1e9 + 1, 1e9 + 10, 1e9 + 12]
        tiers = make_tiers({f"m{i}": v for i, v in enumerate(values)}, 2)
        assert tiers.tiers == (("m3", "m2"), ("m1", "m0"))

    def test_the_sides_and_the_default_pair_are_as_defined(self):
        ratings = {"a": 100.0, "b": 99.0, "c": 98.0, "d": 50.0, "e": 49.0, "f": 10.0, "g": 9.0, "h": 8.0, "i": 7.0}
        tiers = make_tiers(ratings, 3)
        assert tiers.tiers == (("a", "b", "c"), ("d", "e"), ("f", "g", "h", "i"))
        assert tiers.strong_models() == ("a", "b", "c", "d", "e")
        assert tiers.weak_models() == ("f", "g", "h", "i")
        assert tiers.default_pair() == ("b", "g")  # of the two in the middle the stronger
        assert tiers.tier_of("F") == 2
        assert tiers.models_of(1) == ("d", "e")
        assert tiers.index(["i", "a", "unknown"]).tolist() == [2, 0, -1]
        with pytest.raises(UnknownKindError, match="unknown model 'z'"):
            tiers.tier_of("z")

    def test_they_survive_json(self):
        tiers = make_tiers({f"m{i}": i**2 / 7 for i in range(12)}, 4)
        assert Tiers.restore(json.loads(json.dumps(tiers.to_dict()))) == tiers

    @pytest.mark.parametrize(
        "described",
        [
            {},
            {"tiers": [["a"], []], "ratings": [[1], []]},
            {"tiers": [["a"]], "ratings": [[1, 2]]},
            {"tiers": [["a"], ["a"]], "ratings": [[2], [1]]},
            {"tiers": [["a"]], "ratings": [["x"]]},
        ],
    )
    def test_other_json_is_refused(self, described):
        with pytest.raises(ConfigurationError, match="not a description of tiers"):
            Tiers.restore(described)

    def test_fewer_models_than_tiers_is_an_error(self):
        with pytest.raises(DataError, match="2 rated models cannot make 3 tiers"):
            make_tiers({"a": 1.0, "b": 2.0}, 3)

    @pytest.mark.parametrize("rating", [float("nan"), float("inf")])
    def test_a_rating_that_is_not_finite_is_an_error_that_names_the_model(self, rating):
        with pytest.raises(DataError, match="model 'b' is"):
            make_tiers({"a": 1.0, "b": rating}, 1)

    @pytest.mark.parametrize("k", [0, -1, 1.5, True])
    def test_a_number_of_tiers_that_is_none_is_an_error(self, k):
        with pytest.raises(ConfigurationError, match="positive integer"):
            make_tiers({"a": 1.0, "b": 2.0}, k)

    def test_ratings_go_in_as_they_come_out(self):
        ratings = Ratings(models=("a", "b"), values=np.array([2.0, 1.0]), unrated={"c": "why"})
        assert make_tiers(ratings, 2).tiers == (("a",), ("b",))
