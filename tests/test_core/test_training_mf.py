"""Training a matrix factorisation: derivatives, what it finds, what a kill leaves, and models added later."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from routellm_core import load_router
from routellm_core.data import Battles
from routellm_core.encoders import HashingEncoder
from routellm_core.errors import ConfigurationError, DataError, UnknownKindError
from routellm_core.routers.linear import sigmoid
from routellm_core.training import mf
from routellm_core.training.mf import train_mf
from routellm_core.training.new_model import _fitted_unit, add_model
from routellm_core.training.run import TrainingRun

WIDTH = 24
QUICK = {"strong": "m0", "weak": "m5", "dim": 8, "epochs": 6, "learning_rate": 1e-2, "noise": 0.02}


def some_battles(n=1500, n_models=6, n_prompts=120, seed=0, ties=0.1):
    """Models are the better the smaller their number, but on prompts with "hard" much more so."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n_prompts) < 0.5
    prompts = [f"{'hard proof' if h else 'easy chat'} number {i}" for i, h in enumerate(hard)]
    a = rng.integers(n_models, size=n)
    b = (a + rng.integers(1, n_models, size=n)) % n_models
    chosen = rng.integers(n_prompts, size=n)
    margin = (b - a) * np.where(hard[chosen], 1.5, 0.2) + rng.logistic(size=n)
    outcome = np.where(rng.random(n) < ties, 0, np.where(margin > 0, 1, -1))
    return Battles.from_columns([prompts[i] for i in chosen], [f"m{i}" for i in a], [f"m{i}" for i in b], outcome)


def train(battles, **changes):
    return train_mf(battles, **{"encoder": HashingEncoder(WIDTH), **QUICK, **changes})


def weights_of(router):
    return [router.model_vectors, router.projection, router.classifier]


# -- the optimisation
def test_derivatives_are_those_of_finite_differences():
    rng = np.random.default_rng(1)
    weights = {"P": rng.normal(size=(4, 3)), "W": rng.normal(size=(3, 5)), "c": rng.normal(size=3)}
    e = rng.normal(size=(7, 5))
    winner, loser = np.array([0, 1, 0, 3, 0, 2, 1]), np.array([1, 0, 3, 0, 1, 3, 2])  # rows of P meet several times
    loss, gradients = mf._loss_and_gradients(weights, e, winner, loser)

    def slowly():
        p = weights["P"] / np.linalg.norm(weights["P"], axis=1, keepdims=True)
        delta = (p * weights["c"]) @ (weights["W"] @ e.T)  # (model, battle)
        return -np.log(sigmoid(delta[winner, np.arange(7)] - delta[loser, np.arange(7)])).mean()

    assert loss == pytest.approx(slowly())
    for part, gradient in gradients.items():
        for place in np.ndindex(*gradient.shape):
            before = weights[part][place]
            weights[part][place] = before + 1e-6
            up = slowly()
            weights[part][place] = before - 1e-6
            slope = (up - slowly()) / 2e-6
            weights[part][place] = before
            assert gradient[place] == pytest.approx(slope, abs=1e-8), (part, place)


def test_adam_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    gradients = rng.normal(size=(20, 4, 3)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.Adam([theirs], lr=0.01, weight_decay=0.1)
    ours = {"P": start.copy()}
    adam = mf._Adam(ours, 0.01, 0.1)
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
        adam.step(ours, {"P": gradient.copy()})
    np.testing.assert_allclose(ours["P"], theirs.detach().numpy(), atol=1e-6)


def test_it_learns_who_wins_where():
    battles = some_battles()
    result = train(battles, epochs=15)
    losses = [row["loss"] for row in result.log[1:]]
    assert losses[-1] < losses[0] < 1
    router = result.router
    assert router.win_rate(["hard proof number 7"])[0] > router.win_rate(["easy chat number 7"])[0] + 0.1
    # on hard prompts the models' order is the true one
    scores = router.model_scores(["hard proof number 7", "hard proof number 900"]).mean(axis=0)
    assert [router.models[i] for i in np.argsort(-scores)] == [f"m{i}" for i in range(6)]


def test_the_log_counts_and_measures():
    battles = some_battles(4000)
    result = train(battles, validation=0.3)
    first, *epochs = result.log
    assert first["ties"] == int((battles.outcome == 0).sum())
    assert first["battles"] + first["validation_battles"] + first["ties"] == len(battles)
    assert (first["models"], first["untrained_models"]) == (6, 0)
    assert [row["step"] for row in epochs] == [1, 2, 3, 4, 5, 6]
    assert all(0 < row["validation_loss"] < 1 and 0.3 < row["validation_apgr"] < 1.2 for row in epochs)
    assert result.router.calibration.win_rates.size == len(battles.prompts)
    np.testing.assert_allclose(
        result.router.calibration.win_rates, np.sort(result.router.win_rate(battles.prompts)), atol=1e-5
    )


def test_held_out_groups_are_not_trained_on(monkeypatch):
    battles = some_battles()
    battles = battles.with_groups(np.arange(len(battles.prompts)) // 2)
    seen = []
    real = mf._epoch
    monkeypatch.setattr(mf, "_epoch", lambda w, a, e, part, **k: seen.append(part) or real(w, a, e, part, **k))
    train(battles, epochs=1, validation=0.3)
    trained = set(battles.groups[seen[0].prompt])
    heldout = set(battles.groups) - trained
    assert len(heldout) == round(0.3 * 60)
    # nobody's battles but the ties and the held-out groups' are missing
    rest = ~np.isin(battles.groups[battles.prompt_index], list(heldout)) & (battles.outcome != 0)
    assert len(seen[0]) == rest.sum()


def test_the_best_weights_are_kept_and_training_stops():
    # so large a step that the loss soon rises again
    result = train(some_battles(), learning_rate=0.3, epochs=40, patience=3)
    validation = [row["validation_loss"] for row in result.log[1:]]
    best = int(np.argmin(validation)) + 1
    assert len(validation) == best + 3 < 40
    shorter = train(some_battles(), learning_rate=0.3, epochs=best)
    for one, other in zip(weights_of(result.router), weights_of(shorter.router), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_validation_all_epochs_run():
    result = train(some_battles(), validation=0, patience=1)
    assert [row["validation_loss"] for row in result.log[1:]] == [None] * 6
    assert result.log[0]["validation_battles"] == 0


def test_a_seed_gives_the_same_router_and_another_seed_another():
    battles = some_battles()
    one, same, other = (train(battles, epochs=2, seed=seed).router for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.projection, same.projection)
    assert not np.array_equal(one.projection, other.projection)


def test_given_vectors_are_used_and_checked():
    battles = some_battles()
    encoder = HashingEncoder(WIDTH)
    vectors = encoder.encode(battles.prompts)
    with_vectors = train(battles, epochs=1, vectors=vectors, encoder=encoder)
    np.testing.assert_array_equal(
        with_vectors.router.projection, train(battles, epochs=1, encoder=encoder).router.projection
    )
    vectors[5, 3] = np.nan
    with pytest.raises(DataError, match="vector 5 holds values that are not finite"):
        train(battles, vectors=vectors)
    with pytest.raises(DataError, match="shape"):
        train(battles, vectors=vectors[:, :-1])


# -- what cannot be trained on
def test_ties_alone_are_nothing_to_learn_from():
    battles = Battles.from_columns(["a", "b", "c"], ["m0"] * 3, ["m5"] * 3, [0, 0, 0])
    with pytest.raises(DataError, match="of 3 battles 3 are ties"):
        train(battles)


def test_a_model_of_the_pair_must_have_battles_to_learn_from():
    battles = some_battles()
    with pytest.raises(UnknownKindError, match="'gpt-9'; there are m0, m1"):
        train(battles, strong="gpt-9")
    tied = Battles.from_columns(["easy chat"] * 2, ["new"] * 2, ["m1"] * 2, [0, 0])
    with pytest.raises(DataError, match="'new' won and lost no battle"):
        train(Battles.concatenated([battles, tied]), weak="new", validation=0)


def test_a_model_without_training_battles_is_counted_and_unknown_to_the_router():
    tied = Battles.from_columns(["easy chat"] * 2, ["new"] * 2, ["m1"] * 2, [0, 0])
    result = train(Battles.concatenated([some_battles(), tied]), epochs=1)
    assert result.log[0]["untrained_models"] == 1
    with pytest.raises(UnknownKindError, match="m0"):
        result.router.for_pair("new", "m1")


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 0},
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": -1},
        {"patience": 0},
        {"noise": -0.1},
        {"learning_rate": float("nan")},
        {"validation": 1.0},
        {"validation": -0.1},
        {"strong": "m1", "weak": "m1"},
    ],
)
def test_arguments_out_of_range_are_refused(changes):
    with pytest.raises(ConfigurationError):
        train(some_battles(200), **{"epochs": 1, **changes})


@pytest.mark.parametrize("changes", [{"noise": "much"}, {"validation": None}, {"seed": -1}, {"seed": 1.5}])
def test_arguments_of_another_kind_are_refused(changes):
    with pytest.raises(ConfigurationError, match=next(iter(changes))):
        train(some_battles(200), **{"epochs": 1, **changes})


def test_a_training_that_diverges_says_so(tmp_path):
    with pytest.raises(ConfigurationError, match=r"diverged in epoch 1; lower learning_rate=1e\+30"):
        train(some_battles(200), learning_rate=1e30, out=tmp_path / "r")
    assert not list(tmp_path.iterdir())


class Unpaid(HashingEncoder):
    def _encode(self, texts):
        pytest.fail("vectors may cost money")


def test_what_can_be_refused_is_refused_before_anything_is_encoded(tmp_path):
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("mine")
    for out in ("notes", "folder", "notes/below"):
        with pytest.raises(ConfigurationError, match="does not hold a saved router|cannot be a folder"):
            train(some_battles(200), encoder=Unpaid(WIDTH), out=tmp_path / out)
    with pytest.raises(DataError, match="ties"):
        train(some_battles(200, ties=1.0), encoder=Unpaid(WIDTH))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "notes"]


def test_two_trainings_into_one_folder_are_refused_until_the_first_ends(tmp_path):
    pytest.importorskip("fcntl")
    with TrainingRun(tmp_path / "r", {"kind": "mf"}):
        with pytest.raises(ConfigurationError, match="another process trains into"):
            train(some_battles(200), out=tmp_path / "r", restart=True)
    train(some_battles(200), out=tmp_path / "r", epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_killed_between_the_save_and_the_end_it_ends_when_called_again(tmp_path, monkeypatch):
    def die(self, out):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            train(some_battles(200), out=tmp_path / "r", epochs=2)
    first = load_router(tmp_path / "r")
    again = train(some_battles(200), out=tmp_path / "r", epochs=2)
    np.testing.assert_array_equal(weights_of(first)[0], weights_of(again.router)[0])
    assert [row["step"] for row in again.log] == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


# -- files
def test_a_trained_router_is_saved_with_its_log_and_without_checkpoints(tmp_path):
    result = train(some_battles(), out=tmp_path / "r", epochs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert len((tmp_path / "r" / "training_log.jsonl").read_text().splitlines()) == 3
    loaded = load_router(tmp_path / "r")
    np.testing.assert_array_equal(loaded.win_rate(["hard", "easy"]), result.router.win_rate(["hard", "easy"]))
    assert loaded.calibration.threshold == result.router.calibration.threshold


def test_a_killed_training_continues_to_the_same_weights(tmp_path):
    code = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from pathlib import Path
        from test_training_mf import some_battles, train
        from routellm_core.training import mf
        real, epochs = mf._epoch, []
        def epoch(*a, **k):
            epochs.append(1)
            if len(epochs) == 4:  # three checkpoints are written, the fourth epoch is lost
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*a, **k)
        mf._epoch = epoch
        train(some_battles(), out=Path({str(tmp_path / "r")!r}))
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "r").exists()
    with pytest.raises(ConfigurationError, match="seed: 0 then, 1 now"):
        train(some_battles(), out=tmp_path / "r", seed=1)
    resumed = train(some_battles(), out=tmp_path / "r")
    whole = train(some_battles())
    for one, other in zip(weights_of(resumed.router), weights_of(whole.router), strict=True):
        np.testing.assert_array_equal(one, other)

    def without_times(log):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in log]

    assert without_times(resumed.log) == without_times(whole.log)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_run_with_other_settings_can_be_thrown_away(tmp_path, monkeypatch):
    def stop(*a, **k):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(mf, "_pair_win_rates", stop)  # after the last epoch's checkpoint, or the first's validation
        with pytest.raises(KeyboardInterrupt):
            train(some_battles(), out=tmp_path / "r", validation=0)
    result = train(some_battles(), out=tmp_path / "r", validation=0, seed=1, restart=True)
    fresh = train(some_battles(), validation=0, seed=1)
    np.testing.assert_array_equal(result.router.projection, fresh.router.projection)


@pytest.mark.parametrize("name", ["legal", "billing", None])
def test_a_continued_training_has_the_name_of_the_call_that_ends_it(tmp_path, monkeypatch, name):
    def stop(*a, **k):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(mf, "_pair_win_rates", stop)
        with pytest.raises(KeyboardInterrupt):
            train(some_battles(200), out=tmp_path / "r", validation=0, epochs=2, name="legal")
    assert (tmp_path / "r.training").exists()
    monkeypatch.setattr(mf, "_epoch", stop)  # all epochs are done: another name is no reason to do them again
    result = train(some_battles(200), out=tmp_path / "r", validation=0, epochs=2, name=name)
    assert result.router.name == load_router(tmp_path / "r").name == (name or "mf")


# -- models added later
@pytest.fixture(scope="module")
def trained():
    """All models but m0, the best,, and m0's battles."""
    battles = some_battles(3000)
    number = battles.models.index("m0")
    own = (battles.model_a == number) | (battles.model_b == number)
    return train(battles.take(~own), epochs=15, strong="m1").router, battles.take(own)


def test_an_added_model_takes_its_place_from_fifty_battles(trained):
    router, battles = trained
    larger = add_model(router, battles.take(np.arange(50)), "m0")
    assert larger.models == (*router.models, "m0")
    order = [larger.models[i] for i in np.argsort(-larger.model_scores(["hard proof number 3"])[0])]
    assert abs(order.index("m0")) <= 1
    rest = battles.take(np.arange(50, len(battles)))
    assert loss_of(larger, rest) < 0.95 * loss_of(add_model(router, battles.take(np.arange(1)), "m0"), rest)


def test_an_added_model_stands_between_those_it_beats_and_those_it_loses_to(trained):
    router, _ = trained
    prompts = [f"hard proof number {i}" for i in range(60)]
    opponents = ["m1", "m5"] * 30
    battles = Battles.from_columns(prompts, opponents, ["new"] * 60, [1, -1] * 30)
    scores = add_model(router, battles, "new").model_scores(prompts).mean(axis=0)
    of = dict(zip([*router.models, "new"], scores, strict=True))
    assert of["m1"] > of["new"] > of["m5"]
    assert of["m1"] - of["new"] < 3 * (of["new"] - of["m5"]) < 9 * (of["m1"] - of["new"])  # about midway


def loss_of(router, battles):
    scores = router.model_scores(battles.prompts)
    row = np.array([router.models.index(m) for m in battles.models])
    q = battles.prompt_index
    margin = scores[q, row[battles.model_a]] - scores[q, row[battles.model_b]]
    decided = battles.outcome != 0
    return np.logaddexp(0, -battles.outcome * margin)[decided].mean()


def test_the_rest_stays_as_it_was(trained):
    router, battles = trained
    larger = add_model(router, battles, "m0")
    np.testing.assert_array_equal(larger.win_rate(["hard", "easy"]), router.win_rate(["hard", "easy"]))
    assert larger.calibration is router.calibration
    np.testing.assert_allclose(larger.model_scores(["hard"])[:, :-1], router.model_scores(["hard"]), atol=1e-12)
    assert larger.for_pair("m0", "m5").strong == "m0"


def test_the_added_vector_is_the_best_on_the_sphere(trained):
    router, battles = trained
    units = router.model_vectors / np.linalg.norm(router.model_vectors, axis=1, keepdims=True)
    rng = np.random.default_rng(4)
    z, offset = rng.normal(size=(40, 8)), rng.normal(size=40)
    reading = rng.normal(size=(8, 20))
    u = _fitted_unit(units.astype(float), reading, z, offset, 1.0)
    assert np.linalg.norm(u) == pytest.approx(1)
    mean = units.mean(axis=0)
    root = np.linalg.cholesky(reading @ reading.T)  # another root than the code's: the prior is the same
    done = (units - mean) @ root
    covariance = done.T @ done / len(units)
    precision = root @ np.linalg.inv(covariance + 0.1 / 8 * np.trace(covariance) * np.eye(8)) @ root.T

    def objective(v):
        v = v / np.linalg.norm(v)
        return np.logaddexp(0, offset - z @ v).sum() + (v - mean) @ precision @ (v - mean) / 2

    nearby = [objective(u + 1e-3 * rng.normal(size=8)) for _ in range(200)]
    assert min(nearby) >= objective(u)


def test_a_model_is_not_added_from_battles_that_tell_nothing(trained):
    router, battles = trained
    with pytest.raises(DataError, match="'m9' won or lost"):
        add_model(router, battles, "m9")
    with pytest.raises(DataError, match="'m0' won or lost"):
        add_model(router, battles.take(battles.outcome == 0), "m0")
    with pytest.raises(ConfigurationError, match="already"):
        add_model(router, battles, "m1")
    with pytest.raises(ConfigurationError, match="prior_strength"):
        add_model(router, battles, "m0", prior_strength=0)
    stranger = Battles.from_columns(["x"], ["m0"], ["stranger"], [1])
    with pytest.raises(UnknownKindError, match="'m0' battled stranger, unknown to the router; it knows: m"):
        add_model(router, stranger, "m0")
    with pytest.raises(DataError, match="vector 0 holds"):
        add_model(router, battles, "m0", vectors=np.full((len(battles.prompts), WIDTH), np.nan))


def test_files_of_somebody_else_in_the_folder_of_checkpoints_stay(tmp_path):
    for name, own in (("a", "battles.jsonl"), ("b", None)):
        folder = tmp_path / f"{name}.training"
        folder.mkdir()
        if own:
            (folder / own).write_text("mine")
        with TrainingRun(tmp_path / name, {"seed": 0}) as run:
            run.checkpoint({"w": np.zeros(2)}, step=1)
            (folder / ".state.safetensors.0123abcd").write_text("of a write that was killed")
            (tmp_path / name).mkdir()
            run.finish(tmp_path / name)
        assert not folder.exists() if own is None else os.listdir(folder) == [own]
