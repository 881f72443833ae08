"""Battles and augmentation together: what each trainer is given."""

import inspect

import numpy as np
import pytest

from routellm_core import load_router
from routellm_core.data import Battles
from routellm_core.encoders import HashingEncoder, RemoteEncoder, vectors_by_text
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.policy import RouteRequest, RoutingPolicy
from routellm_core.training import trainers
from routellm_core.training.material import TrainingMaterial
from routellm_core.training.run import TrainingResult


def ladder(n_models=12, n_prompts=40, seed=0):
    """Every neighbour pair of models on every prompt; the better one wins two of three."""
    rng = np.random.default_rng(seed)
    rows = [(f"a question, number {q}, of the arena", i) for q in range(n_prompts) for i in range(n_models - 1)]
    return Battles.from_columns(
        [prompt for prompt, _ in rows],
        [f"model-{i:02d}" for _, i in rows],
        [f"model-{i + 1:02d}" for _, i in rows],
        np.where(rng.random(len(rows)) < 2 / 3, 1, -1),
    )


def golden(prompts, outcomes):
    return Battles.from_columns(prompts, ["big"] * len(prompts), ["small"] * len(prompts), outcomes)


def material(**options):
    return TrainingMaterial.from_battles(ladder(), near_duplicates="ignore", n_tiers=4, **options)


def test_the_default_pair_is_of_the_first_and_the_third_tier():
    made = material()
    assert made.tiers.tier_of(made.strong) == 0
    assert made.tiers.tier_of(made.weak) == 2


def test_a_named_pair_is_found_by_its_spellings():
    made = material(strong="Model_00", weak="owner/model-11")
    assert (made.strong, made.weak) == ("model-00", "model-11")


def test_one_model_cannot_be_both():
    with pytest.raises(ConfigurationError, match="same model"):
        material(strong="model-03", weak="model-03")


def test_an_unknown_model_is_named():
    with pytest.raises(UnknownKindError, match="gpt-9"):
        material(strong="gpt-9")


def test_augmentation_counts_as_battles_of_the_pair_whatever_its_models_are_called():
    labels = golden(["a golden question, number one", "a golden question, number two"], [1, -1])
    made = material(strong="model-00", weak="model-11", augmented=labels)
    battles = made.battles_of_models()
    assert set(battles.models) == {f"model-{i:02d}" for i in range(12)}
    added = [i for i in range(len(battles)) if "golden" in battles.prompts[battles.prompt_index[i]]]
    assert [
        (battles.models[battles.model_a[i]], battles.models[battles.model_b[i]], int(battles.outcome[i])) for i in added
    ] == [("model-00", "model-11", 1), ("model-00", "model-11", -1)]
    assert len(battles) == len(ladder()) + 2


@pytest.mark.parametrize(("over", "arena"), [("tiers", True), ("none", False)])
def test_labels_take_the_augmentation_and_the_battles_asked_for(over, arena):
    made = material(augmented=golden(["a golden question, number one"], [0]))
    labels = made.labels(over=over)
    assert labels.counts[labels.prompts.index("a golden question, number one")].tolist() == [0, 1, 0]
    assert any("arena" in prompt for prompt in labels.prompts) == arena


def test_labels_over_the_pair_are_of_the_battles_between_its_tiers():
    # only neighbours met, so two adjacent tiers meet in the 40 battles of the two models where they touch
    tiers = material().tiers
    made = material(strong=tiers.models_of(0)[0], weak=tiers.models_of(1)[0])
    assert made.labels(over="pair").counts.sum() == 40
    with pytest.raises(DataError, match="no battle"):
        material(strong=tiers.models_of(0)[0], weak=tiers.models_of(3)[0]).labels(over="pair")


def test_a_pair_of_one_tier_has_no_sides():
    made = material()
    one, other = next(models for models in made.tiers.tiers if len(models) > 1)[:2]
    with pytest.raises(ConfigurationError, match="one tier"):
        material(strong=one, weak=other).labels(over="pair")


def test_augmentation_overlapping_the_evaluation_is_dropped_and_counted():
    asked = "what is the airspeed velocity of an unladen swallow"
    labels = golden(["a golden question, number one", asked.upper() + "?"], [1, 1])
    made = material(augmented=labels, evaluation_prompts=[asked])
    assert asked.upper() + "?" not in made.battles.prompts
    assert any(step.name == "augmentation, overlap" and step.rows.size == 1 for step in made.steps)


def test_near_duplicates_in_battles_and_augmentation_share_a_group():
    near = "please tell me which of the planets in the solar system is the largest one"
    battles = ladder()
    more = Battles.from_columns([near], ["model-00"], ["model-01"], [1])
    made = TrainingMaterial.from_battles(
        Battles.concatenated([battles, more]), augmented=golden([near + " of all"], [1]), n_tiers=4
    )
    groups = {made.battles.groups[made.battles.prompts.index(prompt)] for prompt in (near, near + " of all")}
    assert len(groups) == 1


def test_an_option_that_a_trainer_lacks_is_refused():
    with pytest.raises(ConfigurationError, match="no option 'steps'"):
        trainers.train("mf", material(), steps=3)


def test_trainers_of_others_get_what_their_parameters_ask_for(monkeypatch):
    given = {}

    def train_mine(labels, *, strong, seed=0, out=None):
        given.update(labels=labels, strong=strong, seed=seed, out=out)
        return TrainingResult(router=None, log=[])

    monkeypatch.setattr(trainers.TRAINERS, "load", lambda kind: train_mine)
    made = material()
    trainers.train("mine", made, seed=3, label_sides="tiers")
    assert given["strong"] == made.strong
    assert given["seed"] == 3
    assert given["labels"].counts.sum() == made.labels().counts.sum()


def test_published_embeddings_one_a_battle_make_a_router_without_encoding_anything(tmp_path):
    # the shape of the published Arena data: a row a battle, and a table of embeddings in the same order
    battles = ladder(n_models=6, n_prompts=30)
    rows = [battles.prompts[i] for i in battles.prompt_index]
    published = np.random.default_rng(5).normal(size=(30, 8))[battles.prompt_index]
    asked = []

    def embed(texts):
        asked.extend(texts)
        return np.ones((len(texts), 8))

    encoder = RemoteEncoder(embed, name="text-embedding-3-small", dim=8)
    made = TrainingMaterial.from_battles(battles, n_tiers=4, near_duplicates="ignore")
    vectors = vectors_by_text(made.battles.prompts, rows, published)
    assert vectors[7] == pytest.approx(published[rows.index(made.battles.prompts[7])])
    router = trainers.train("sw", made, encoder=encoder, vectors=vectors, out=tmp_path / "router").router
    assert asked == []
    again = load_router(tmp_path / "router", encoder=encoder)
    assert again.win_rate(["a new question"]) == pytest.approx(router.win_rate(["a new question"]))
    assert asked == ["a new question"] * 2


def test_prompts_without_a_published_embedding_are_counted():
    with pytest.raises(DataError, match="2 of 3 prompts have no vector, the first is prompt 1"):
        vectors_by_text(["a", "b", "c"], ["x", "a"], np.zeros((2, 4)))


@pytest.mark.parametrize("kind", sorted(trainers.TRAINERS.table))
def test_every_trainer_says_what_it_learns_from_and_where_it_saves(kind):
    if kind in ("bert", "causal"):
        pytest.importorskip("torch")
    parameters = inspect.signature(trainers.TRAINERS.load(kind)).parameters
    assert next(iter(parameters)) in ("battles", "labels")
    assert {"name", "out", "seed"} <= set(parameters)


@pytest.mark.parametrize("kind", ["mf", "sw"])
def test_a_trained_router_has_the_name_it_was_given_or_else_its_kind(kind, tmp_path):
    made, encoder = material(), HashingEncoder(16)
    options = {"epochs": 1} if kind == "mf" else {}
    assert trainers.train(kind, made, encoder=encoder, **options).router.name == kind
    named = trainers.train(kind, made, encoder=encoder, name="legal", out=tmp_path / "router", **options).router
    assert named.name == load_router(tmp_path / "router").name == "legal"
    decision = RoutingPolicy(load_router(tmp_path / "router"), threshold=0.5).decide([RouteRequest(text="Why?")])[0]
    assert decision.router == "legal"  # what records hold


def test_a_named_pair_needs_no_third_tier():
    four = ladder(n_models=4)
    made = TrainingMaterial.from_battles(four, near_duplicates="ignore", n_tiers=2, strong="model-00", weak="model-03")
    assert (made.strong, made.weak) == ("model-00", "model-03")
    with pytest.raises(ConfigurationError, match="name a pair of models"):
        TrainingMaterial.from_battles(four, near_duplicates="ignore", n_tiers=2, strong="model-00")


def test_two_models_are_the_pair_and_label_prompts_without_being_named():
    # labels of somebody's own two models: no third tier, no other battles; the better one is the strong one
    made = TrainingMaterial.from_battles(ladder(n_models=2), near_duplicates="ignore")
    assert (made.strong, made.weak) == ("model-00", "model-01")
    assert len(made.tiers) == 2
    assert made.labels().counts.sum() == 40


def test_augmentation_whose_models_change_sides_is_refused():
    one = golden(["a golden question, number one"], [1])
    other = Battles.from_columns(["a golden question, number two"], ["small"], ["big"], [1])
    with pytest.raises(
        DataError, match="'big' is the strong side against 'small' in some rows, the weak one in others"
    ):
        material(augmented=Battles.concatenated([one, other]))
