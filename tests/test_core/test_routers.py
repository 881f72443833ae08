"""Routers: the contract for each kind, and what is particular to one."""

import fnmatch
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routellm_core import Calibration, DifficultyRouter, MatrixFactorizationRouter, RandomRouter, Router, load_router
from routellm_core.encoders import HashingEncoder, StackedEncoder, StaticEncoder
from routellm_core.errors import (
    ConfigurationError,
    EncoderError,
    RouterFormatError,
    ScoringError,
    UnknownKindError,
)
from routellm_core.routers import ROUTERS, resolve_router
from routellm_core.routers.linear import sigmoid
from routellm_core.testing import RouterContract, ScriptedRouter

MODELS = ("large", "medium", "small")


def make_mf(encoder=None, **changes):
    encoder = encoder or HashingEncoder(64)
    rng = np.random.default_rng(3)
    arguments = {
        "encoder": encoder,
        "model_vectors": rng.normal(size=(3, 8)),
        "projection": rng.normal(size=(8, encoder.dim)),
        "classifier": rng.normal(size=8),
        "models": MODELS,
        "strong": "large",
        "weak": "small",
        "calibration": Calibration.from_win_rates(rng.random(50)),
    }
    return MatrixFactorizationRouter(**{**arguments, **changes})


def make_difficulty(**changes):
    rng = np.random.default_rng(5)
    arguments = {
        "encoder": HashingEncoder(64),
        "weights": rng.normal(size=64),
        "bias": 0.1,
        "slope": 1.7,
        "intercept": -0.4,
        "abilities": {"large": 2.0, "small": -1.0},
        "calibration": Calibration.from_win_rates(rng.random(50)),
    }
    return DifficultyRouter(**{**arguments, **changes})


class TestRandom(RouterContract):
    def make(self):
        return RandomRouter(seed=11)

    def test_it_is_uniform(self):
        win_rates = RandomRouter().win_rate([str(i) for i in range(20_000)])
        counts = np.histogram(win_rates, bins=10, range=(0, 1))[0]
        assert abs(counts - 2000).max() < 5 * np.sqrt(2000)  # five standard deviations

    def test_another_seed_is_independent(self):
        prompts = [str(i) for i in range(5000)]
        one, other = RandomRouter(seed=1).win_rate(prompts), RandomRouter(seed=2).win_rate(prompts)
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


class TestMatrixFactorization(RouterContract):
    def make(self):
        return make_mf()

    def test_it_is_the_papers_formula(self):
        # written out for one prompt, with the vectors as the paper has them
        router = self.make()
        e = router.encoder.encode(["What is 2 + 2?"])[0].astype(float)

        def delta(row):
            p = router.model_vectors[row].astype(float)
            return router.classifier.astype(float) @ (p / np.linalg.norm(p) * (router.projection.astype(float) @ e))

        expected = 1 / (1 + np.exp(-(delta(0) - delta(2))))
        assert router.win_rate(["What is 2 + 2?"])[0] == pytest.approx(expected, abs=1e-6)
        np.testing.assert_allclose(
            router.model_scores(["What is 2 + 2?"])[0], [delta(0), delta(1), delta(2)], atol=1e-5
        )

    def test_another_pair_uses_the_other_models_scores(self):
        router = self.make()
        scores = router.model_scores(["a", "b"])
        pair = router.for_pair("medium", "small")
        np.testing.assert_allclose(pair.win_rate(["a", "b"]), sigmoid(scores[:, 1] - scores[:, 2]), atol=1e-9)
        assert pair.calibration is None  # thresholds of another pair would be wrong

    def test_swapping_the_pair_turns_the_win_rate_round(self):
        router = self.make()
        np.testing.assert_allclose(
            router.for_pair("small", "large").win_rate(["a"]), 1 - router.win_rate(["a"]), atol=1e-9
        )

    def test_an_unknown_model_lists_the_known_ones(self):
        with pytest.raises(UnknownKindError, match="large, medium, small"):
            self.make().for_pair("gpt-9", "small")

    def test_a_model_can_be_added_by_its_vector(self):
        router = self.make()
        larger = router.with_model("new", 2 * router.model_vectors[1])  # its length plays no part
        assert larger.models == (*MODELS, "new")
        scores = larger.model_scores(["a", "b"])
        np.testing.assert_allclose(scores[:, 3], scores[:, 1], atol=1e-6)
        np.testing.assert_array_equal(larger.win_rate(["a"]), router.win_rate(["a"]))
        assert larger.calibration is router.calibration  # the pair is the same
        assert router.models == MODELS

    @pytest.mark.parametrize("vector", [np.ones(7), np.zeros(8), np.full(8, np.nan), np.ones((1, 8))])
    def test_a_vector_that_does_not_fit_is_refused(self, vector):
        with pytest.raises(ConfigurationError):
            self.make().with_model("new", vector)

    def test_a_model_is_not_added_twice(self):
        with pytest.raises(ConfigurationError, match="twice"):
            self.make().with_model("small", np.ones(8))

    @pytest.mark.parametrize(
        "changes",
        [
            {"strong": "small"},
            {"models": ("a", "a", "b")},
            {"classifier": np.ones(7)},
            {"projection": np.ones((8, 63))},
            {"model_vectors": np.zeros((3, 8))},
            {"model_vectors": np.full((3, 8), np.nan)},
            {"models": ("large", "small")},
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, changes):
        with pytest.raises(ConfigurationError):
            make_mf(**changes)


class TestMatrixFactorizationOnFiles(RouterContract):
    @pytest.fixture(autouse=True)
    def _folder(self, static_folder):
        self.folder = static_folder

    def make(self):
        return make_mf(StackedEncoder([StaticEncoder(self.folder), HashingEncoder(16)]))


class TestDifficulty(RouterContract):
    def make(self):
        return make_difficulty()

    def test_win_rate_is_the_calibrated_difficulty(self):
        router = self.make()
        difficulty = router.difficulty(["a prompt"])[0]
        vector = router.encoder.encode(["a prompt"])[0]
        assert difficulty == pytest.approx(float(vector @ router.weights) + 0.1, abs=1e-6)
        assert router.win_rate(["a prompt"])[0] == pytest.approx(1 / (1 + np.exp(0.4 - 1.7 * difficulty)))

    def test_abilities_survive_saving(self, tmp_path):
        self.make().save(tmp_path / "r")
        assert load_router(tmp_path / "r").abilities == {"large": 2.0, "small": -1.0}

    @pytest.mark.parametrize(
        "changes",
        [
            {"weights": np.ones(63)},
            {"weights": np.full(64, np.inf)},
            {"slope": 0.0},
            {"slope": -1.0},
            {"bias": float("nan")},
            {"abilities": {"m": float("inf")}},
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, changes):
        with pytest.raises(ConfigurationError):
            make_difficulty(**changes)


@given(st.floats(allow_nan=False))
def test_the_sigmoid_never_overflows_and_is_symmetric(x):
    value, mirrored = sigmoid(np.array([x, -x]))
    assert 0 <= value <= 1
    assert value == pytest.approx(1 - mirrored)


@given(st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=80), max_size=5))
def test_any_text_gets_a_probability(prompts):
    # characters(codec=None) includes lone surrogates
    for router in (make_mf(), make_difficulty(), RandomRouter()):
        win_rates = router.win_rate(prompts)
        assert win_rates.shape == (len(prompts),)
        assert ((win_rates >= 0) & (win_rates <= 1)).all()


# -- what a router promises whoever calls it
@pytest.mark.parametrize("value", [float("nan"), -0.01, 1.01, float("inf")])
def test_a_value_that_is_no_probability_is_a_scoring_error(value):
    with pytest.raises(ScoringError, match="for prompt 1"):
        ScriptedRouter(lambda p: value if p == "b" else 0.5).win_rate(["a", "b"])


def test_a_wrong_count_is_a_scoring_error():
    class Wrong(ScriptedRouter):
        def _score(self, prompts):
            return np.zeros(len(prompts) + 1)

    with pytest.raises(ScoringError, match="shape"):
        Wrong().win_rate(["a"])


def test_an_encoders_own_error_reaches_the_caller_as_it_is():
    with pytest.raises(EncoderError):
        ScriptedRouter(error=EncoderError("down", is_retryable=True)).win_rate(["a"])


def test_a_router_of_ones_own_is_a_class_of_one_method():
    class LengthRouter(Router):
        kind = "length"

        def _score(self, prompts):
            return np.array([min(len(p) / 1000, 1.0) for p in prompts])

    assert LengthRouter().win_rate(["x" * 250]).tolist() == [0.25]
    with pytest.raises(ConfigurationError, match="cannot be saved"):
        LengthRouter().save("anywhere")


# -- loading
@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "router"
    make_mf().save(folder)
    return folder


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_router_keeps_its_name_and_calibration(saved):
    router = load_router(saved)
    assert (router.name, router.kind) == ("mf", "mf")
    assert router.calibration.at(strong_share=0.2).threshold == make_mf().calibration.at(strong_share=0.2).threshold


def test_another_encoder_than_the_one_trained_with_is_an_error(saved):
    with pytest.raises(RouterFormatError, match="nonsense"):
        load_router(saved, encoder=HashingEncoder(64, ngrams=(3,)))
    same = HashingEncoder(64)
    assert load_router(saved, encoder=same).encoder is same


def test_a_changed_encoder_inside_the_folder_is_an_error(static_folder, tmp_path):
    make_mf(StaticEncoder(static_folder)).save(tmp_path / "r")
    weights = tmp_path / "r" / "encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RouterFormatError, match="digest"):
        load_router(tmp_path / "r")


def test_changed_tensors_are_an_error(saved):
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(RouterFormatError, match="SHA-256"):
        load_router(saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "config.json").unlink(),
        lambda f: (f / "config.json").write_text("{"),
        lambda f: (f / "config.json").write_text("[]"),
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe"),
        lambda f: (f / "model.safetensors").unlink(),
        lambda f: (f / "model.safetensors").write_bytes(b""),
        lambda f: edit(f, kind="unheard-of"),
        lambda f: edit(f, kind=None),
        lambda f: edit(f, settings={}),
        lambda f: edit(f, settings=None),
        lambda f: edit(f, encoder=None),
        lambda f: edit(f, encoder={}),
        lambda f: edit(f, encoder={"kind": "hashing", "settings": {"unknown": 1}}),
        lambda f: edit(f, calibration={"strong_share": "half"}),
        lambda f: edit(f, format=None),
        lambda f: edit(f, format="1"),
    ],
    ids=range(16),
)
def test_a_damaged_folder_is_a_format_error_never_a_router(saved, damage):
    damage(saved)
    with pytest.raises(RouterFormatError):
        load_router(saved)


def test_a_newer_format_is_refused_by_name(saved):
    edit(saved, format=99)
    with pytest.raises(RouterFormatError, match="format 99.*upgrade"):
        load_router(saved)


def test_a_name_that_is_nothing_says_what_could_be_given(tmp_path):
    with pytest.raises(UnknownKindError, match="'default'.*Hugging Face"):
        load_router("gpt-4")
    with pytest.raises(UnknownKindError):
        load_router(tmp_path / "not" / "there")


def test_what_is_neither_name_nor_folder_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="got int"):
        load_router(3)


def test_a_router_without_a_kind_is_called_by_its_class():
    class Nameless(Router):
        def _score(self, prompts):
            return np.zeros(len(prompts))

    assert Nameless().name == "Nameless"


def test_a_hub_name_is_fetched_and_loaded_like_a_folder(saved, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **kwargs: asked.append((name, kwargs)) or str(saved))
    assert load_router("somebody/router").kind == "mf"
    assert asked[0][0] == "somebody/router"
    wanted = asked[0][1]["allow_patterns"]

    def is_fetched(path):  # as huggingface_hub decides
        return any(fnmatch.fnmatch(path, pattern) for pattern in wanted)

    assert all(map(is_fetched, ["model.safetensors", "encoder/model.onnx", "encoder/0/model.onnx"]))
    assert not any(map(is_fetched, ["onnx/model.onnx", "pytorch_model.bin"]))

    def refuse(name, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(RouterFormatError, match="no network"):
        load_router("somebody/router")


def test_the_random_router_needs_no_folder():
    assert load_router("random").kind == "random"


def test_whatever_takes_a_router_takes_its_name_too(saved):
    router = RandomRouter()
    assert resolve_router(router) is router
    assert resolve_router(str(saved)).kind == "mf"
    with pytest.raises(ConfigurationError):
        resolve_router(3)


@pytest.mark.parametrize("kind", sorted(ROUTERS.table))
def test_every_registered_kind_loads_and_knows_its_name(kind):
    assert ROUTERS.load(kind).kind == kind


def test_another_distributions_router_is_found_by_its_entry_point(monkeypatch, tmp_path):
    from importlib.metadata import EntryPoint

    from routellm_core import _lazy

    ours = EntryPoint("scripted", "routellm_core.testing.fakes:ScriptedRouter", "routellm_core.routers")
    broken = EntryPoint("broken", "no_such_module:X", "routellm_core.routers")

    def entry_points(*, group, name=None):
        assert group == "routellm_core.routers"
        return [e for e in (ours, broken) if name in (None, e.name)]

    monkeypatch.setattr(_lazy, "entry_points", entry_points)
    assert ROUTERS.load("scripted").kind == "scripted"
    assert "scripted" in ROUTERS.kinds()
    with pytest.raises(Exception, match="no_such_module"):
        ROUTERS.load("broken")
