"""Fine-tuning of the bert and causal routers, on tiny random models made in memory."""

import subprocess
import sys

import numpy as np
import pytest

from routellm_core import load_router
from routellm_core.data import LabelledPrompts
from routellm_core.errors import ConfigurationError, DataError, RouterFormatError
from routellm_core.training.run import LOG, TrainingRun

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from routellm_core.training.bert import train_bert  # noqa: E402 - after the skips
from routellm_core.training.causal import label_targets, train_causal  # noqa: E402
from routellm_core.training.fine_tuning import FineTuning, held_out, prompt_weights  # noqa: E402

TEXTS = {"system_text": "", "classifier_text": "{question}", "answer_prefix": ":"}
TRAINERS = {
    "bert": (train_bert, {"learning_rate": 3e-3, "max_length": 64}),
    "causal": (train_causal, {"learning_rate": 3e-3, "max_length": 128, **TEXTS}),
}
KINDS = pytest.mark.parametrize("kind", TRAINERS)


def twenty():
    """Ten prompts that the strong model wins and ten that the weak one does not lose; words tell them apart."""
    prompts = [f"prove {i}" if i % 2 else f"hello {i}" for i in range(20)]
    counts = np.array([[6, 0, 0] if i % 2 else [0, 1, 2] for i in range(20)], dtype=float)
    return LabelledPrompts(prompts=tuple(prompts), counts=counts, groups=np.arange(20))


@pytest.fixture
def folder_of(tiny_bert_folder, tiny_causal_folder):
    return {"bert": tiny_bert_folder, "causal": tiny_causal_folder}.__getitem__


def train(kind, base, **changes):
    trainer, arguments = TRAINERS[kind]
    defaults = {"base": base, "device": "cpu", "steps": 12, "batch_size": 4, "evaluate_every": 3}
    return trainer(changes.pop("labels", twenty()), **{**defaults, **arguments, **changes})


def weights_of(router):
    return {name: tensor.numpy() for name, tensor in router.model.state_dict().items()}


@KINDS
def test_the_loss_falls_and_the_two_kinds_of_prompts_come_apart(kind, folder_of):
    result = train(kind, folder_of(kind), steps=60, batch_size=10, evaluate_every=20, validation=0.0)
    losses = [row["loss"] for row in result.log]
    assert losses[-1] < losses[0] - 0.3
    win_rates = result.router.win_rate(twenty().prompts)
    assert win_rates[1::2].min() > win_rates[::2].max()
    assert result.router.calibration.source == "20 prompts it was trained on"
    assert "validation_loss" not in result.log[0]


@KINDS
def test_the_log_holds_the_validation_and_the_best_weights_are_kept(kind, folder_of, tmp_path):
    # a rate far too high soon makes validation worse, so that the best weights are not the last
    rate = {"learning_rate": 0.05, "warmup": 0.5, "steps": 24}
    result = train(kind, folder_of(kind), validation=0.3, out=tmp_path / "r", **rate)
    assert [row["step"] for row in result.log] == list(range(3, 25, 3))
    assert {"loss", "learning_rate", "validation_loss", "validation_log_loss", "validation_apgr", "seconds"} <= set(
        result.log[0]
    )
    _, held = held_out(twenty(), 0.3, seed=0)
    shares = result.router.label_probabilities(held.prompts)
    targets = held.shares if kind == "bert" else label_targets(held)
    loss = prompt_weights(held.counts) @ -(targets * np.log(shares)).sum(axis=1)
    assert loss == pytest.approx(min(row["validation_loss"] for row in result.log), rel=1e-4)
    assert loss < result.log[-1]["validation_loss"]
    assert result.router.calibration.source == "6 prompts held out in training"
    assert len((tmp_path / "r" / LOG).read_text().splitlines()) == 8
    assert not (tmp_path / "r.training").exists()
    np.testing.assert_array_equal(load_router(tmp_path / "r").win_rate(["a"]), result.router.win_rate(["a"]))


@KINDS
def test_a_trained_router_has_the_name_it_was_given_or_else_its_kind(kind, folder_of, tmp_path):
    assert train(kind, folder_of(kind), steps=1).router.name == kind
    named = train(kind, folder_of(kind), steps=1, name="legal", out=tmp_path / "router").router
    assert named.name == load_router(tmp_path / "router").name == "legal"


@KINDS
def test_the_same_seed_gives_the_same_router_and_leaves_the_callers_random_numbers_alone(kind, folder_of):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = train(kind, folder_of(kind))
    assert torch.equal(torch.rand(3), expected)
    again, other = train(kind, folder_of(kind)), train(kind, folder_of(kind), seed=1)
    for name, tensor in weights_of(one.router).items():
        np.testing.assert_array_equal(tensor, weights_of(again.router)[name], err_msg=name)
    assert not np.array_equal(one.router.win_rate(["a"]), other.router.win_rate(["a"]))


@KINDS
def test_training_stops_when_validation_gets_no_better(kind, folder_of):
    rate = {"learning_rate": 0.05, "warmup": 0.0, "steps": 60, "patience": 2}
    log = train(kind, folder_of(kind), validation=0.3, **rate).log
    losses = [row["validation_loss"] for row in log]
    assert len(log) < 20
    assert int(np.argmin(losses)) == len(losses) - 3  # two evaluations after the best one


def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(folder_of, tmp_path):
    # each process is killed outright while it logs step 9; the last checkpoint is that of step 8
    code = (
        "import sys; sys.path[:0] = {path!r}\n"
        "import logging, os, signal\n"
        "from pathlib import Path\n"
        "class Kill(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        if 'step 9,' in record.getMessage(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "logging.getLogger('routellm_core.training').addHandler(Kill())\n"
        "logging.getLogger('routellm_core.training').setLevel(logging.INFO)\n"
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('these', {file!r})\n"
        "these = importlib.util.module_from_spec(spec); spec.loader.exec_module(these)\n"
        "these.torch.set_num_threads({threads})\n"
        "these.train({kind!r}, Path({base!r}), out=Path({out!r}), checkpoint_every=4)\n"
    )
    killed = {}
    for kind in TRAINERS:
        script = code.format(
            path=[p for p in sys.path if p],
            file=__file__,
            threads=torch.get_num_threads(),
            kind=kind,
            base=str(folder_of(kind)),
            out=str(tmp_path / kind),
        )
        killed[kind] = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    whole = {kind: train(kind, folder_of(kind), checkpoint_every=4) for kind in TRAINERS}
    for kind, process in killed.items():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == -9, errors.decode()
        assert not (tmp_path / kind).exists()
        resumed = train(kind, folder_of(kind), out=tmp_path / kind, checkpoint_every=4)
        expected = weights_of(whole[kind].router)
        for name, tensor in weights_of(resumed.router).items():
            np.testing.assert_array_equal(tensor, expected[name], err_msg=name)
        drop = {"seconds"}
        assert [{k: v for k, v in row.items() if k not in drop} for row in resumed.log] == [
            {k: v for k, v in row.items() if k not in drop} for row in whole[kind].log
        ]


class Stopped(Exception):
    """Stands for whatever ends a run early."""


@pytest.fixture
def unfinished(folder_of, tmp_path, monkeypatch):
    """A bert run that stopped after its first checkpoint."""
    checkpoint = TrainingRun.checkpoint

    def once(self, tensors, **progress):
        checkpoint(self, tensors, **progress)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "checkpoint", once)
        with pytest.raises(Stopped):
            train("bert", folder_of("bert"), out=tmp_path / "r", checkpoint_every=2)
    return tmp_path / "r"


def test_an_unfinished_run_is_not_continued_with_other_settings_labels_or_base(unfinished, folder_of, tmp_path):
    base = folder_of("bert")
    with pytest.raises(ConfigurationError, match="learning_rate: 0.003 then, 0.1 now"):
        train("bert", base, out=unfinished, checkpoint_every=2, learning_rate=0.1)
    with pytest.raises(ConfigurationError, match="labels"):
        train("bert", base, out=unfinished, checkpoint_every=2, labels=twenty().take(range(19)))
    other = tmp_path / "other"
    torch.manual_seed(9)
    train("bert", base, steps=1, validation=0.0, out=other)
    with pytest.raises(ConfigurationError, match="base"):
        train("bert", other / "files", out=unfinished, checkpoint_every=2)
    restarted = train("bert", base, out=unfinished, learning_rate=0.1, restart=True)
    assert restarted.log[-1]["step"] == 12


def test_a_damaged_checkpoint_says_so(unfinished, folder_of):
    state = unfinished.with_name("r.training") / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(RouterFormatError, match="--restart"):
        train("bert", folder_of("bert"), out=unfinished, checkpoint_every=2)


def test_with_lora_only_additions_and_label_rows_are_trained_and_then_merged(folder_of, tmp_path):
    result = train("causal", folder_of("causal"), validation=0.0, out=tmp_path / "r")
    before = train("causal", folder_of("causal"), validation=0.0, learning_rate=1e-12).router
    new, old = weights_of(result.router), weights_of(before)
    assert not any("lora" in name for name in new)
    rows = result.router.label_ids
    embedding = "model.embed_tokens.weight"
    changed = (np.abs(new[embedding] - old[embedding]) > 1e-6).any(axis=1)
    assert np.flatnonzero(changed).tolist() == rows
    assert np.abs(new["model.layers.0.mlp.up_proj.weight"] - old["model.layers.0.mlp.up_proj.weight"]).max() > 1e-4
    np.testing.assert_array_equal(
        new["model.layers.0.input_layernorm.weight"], old["model.layers.0.input_layernorm.weight"]
    )
    model = load_router(tmp_path / "r").model  # a plain model: nothing of peft is left in it
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not list((tmp_path / "r").rglob("adapter*"))


def test_label_rows_of_a_model_with_an_output_layer_of_its_own_are_trained_there(tiny_causal_folder, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(6)
    config = LlamaConfig.from_pretrained(tiny_causal_folder, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(tiny_causal_folder).save_pretrained(tmp_path / "untied")
    before, after = (
        weights_of(train("causal", tmp_path / "untied", validation=0.0, learning_rate=rate).router)
        for rate in (1e-12, 3e-3)
    )
    changed = {
        name: np.flatnonzero((np.abs(after[name] - before[name]) > 1e-6).any(axis=1)).tolist()
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    n = after["lm_head.weight"].shape[0]
    assert changed == {"model.embed_tokens.weight": [], "lm_head.weight": list(range(n - 5, n))}


def test_without_lora_everything_is_trained(folder_of):
    before, after = (
        weights_of(train("causal", folder_of("causal"), validation=0.0, lora=False, learning_rate=rate).router)
        for rate in (1e-12, 1e-3)
    )
    for name in ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.norm.weight"):
        assert np.abs(before[name] - after[name]).max() > 1e-5, name


def test_a_gguf_file_is_unpacked_and_trained(tmp_path):
    gguf = pytest.importorskip("gguf")
    from tokenizers import pre_tokenizers

    pieces = ["<|start|>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(len(pieces), 32), scale=0.3).astype(np.float32)
    shapes = {"attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_types([3, 3] + [1] * (len(pieces) - 2))  # 3 is a control token, 1 a normal one
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_tensor("token_embd.weight", embedding)
    for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"):
        writer.add_tensor(name, np.ones(32, dtype=np.float32))
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.0.{name}.weight", rng.normal(size=shape, scale=0.3).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    router = train("causal", tmp_path / "tiny.gguf", steps=3, out=tmp_path / "r").router
    rows = weights_of(router)["model.embed_tokens.weight"]
    np.testing.assert_array_equal(rows[: len(pieces)], embedding)  # only the label tokens' rows, behind it, train
    np.testing.assert_array_equal(load_router(tmp_path / "r").win_rate(["ab", "c"]), router.win_rate(["ab", "c"]))


@KINDS
def test_bfloat16_products_train_a_float32_router(kind, folder_of):
    result = train(kind, folder_of(kind), dtype="bfloat16", steps=60, batch_size=10, validation=0.0)
    assert result.log[-1]["loss"] < result.log[0]["loss"] - 0.2
    assert result.router.model.dtype == torch.float32


# -- targets, weights, split
def test_a_won_prompt_wants_the_low_labels_a_tie_the_fourth_and_a_lost_one_the_fifth():
    labels = LabelledPrompts(
        prompts=("a", "b"), counts=np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 2.0]]), groups=np.arange(2)
    )
    # 3 of 4 verdicts for the strong side: .75 over the three labels below 4
    np.testing.assert_allclose(label_targets(labels), [[0.25, 0.25, 0.25, 0.25, 0], [0, 0, 0, 0, 1]])


def test_many_verdicts_on_one_prompt_count_less_than_as_many_prompts():
    # 1 and 10 verdicts: 1 / 3 against 10 / 12, so 2.5 times as often, not 10 times
    weights = prompt_weights(np.array([[1.0, 0, 0], [5.0, 0, 5.0]]))
    assert weights[1] / weights[0] == pytest.approx(2.5)
    assert weights.sum() == pytest.approx(1)


def test_no_group_stands_in_training_and_validation():
    labels = LabelledPrompts(prompts=tuple("abcdef"), counts=np.ones((6, 3)), groups=np.array([0, 0, 1, 1, 2, 2]))
    learn, held = held_out(labels, 0.3, seed=0)
    assert len(held) == 2
    assert not set(learn.groups.tolist()) & set(held.groups.tolist())
    assert sorted(learn.prompts + held.prompts) == list("abcdef")
    assert held_out(labels, 0.0, seed=0) == (labels, None)
    with pytest.raises(DataError, match="fewer than two groups"):
        held_out(labels.take([0, 1]), 0.3, seed=0)
    with pytest.raises(DataError, match="no labelled prompts"):
        held_out(labels.take([]), 0.0, seed=0)
    with pytest.raises(ConfigurationError, match="validation"):
        held_out(labels, 1.0, seed=0)


def test_the_rate_rises_over_the_warm_up_and_falls_to_nothing():
    settings = dict(steps=10, batch_size=1, learning_rate=1.0, weight_decay=0.0, evaluate_every=1, checkpoint_every=1)
    rates = FineTuning(**settings, warmup=0.4, patience=None, dtype="float32", seed=0).rate_at
    # rises in quarters over the first four steps, then falls by sevenths over the other six
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]
    assert [rates(step) for step in range(1, 11)] == pytest.approx(expected)
    assert FineTuning(**settings, warmup=0.0, patience=None, dtype="float32", seed=0).rate_at(1) == pytest.approx(
        10 / 11
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -0.1},
        {"warmup": 1.5},
        {"patience": 0},
        {"dtype": "float16"},
        {"validation": 1.0},
    ],
)
@KINDS
def test_settings_out_of_range_are_refused(kind, changes, folder_of):
    with pytest.raises(ConfigurationError):
        train(kind, folder_of(kind), **changes)


@KINDS
def test_a_base_that_is_none_is_refused(kind, tmp_path):
    with pytest.raises(RouterFormatError):
        train(kind, tmp_path / "nothing")
    with pytest.raises(RouterFormatError):
        train(kind, tmp_path / "nothing.gguf")


def test_a_loss_that_is_not_finite_stops_the_run(folder_of):
    with pytest.raises(ConfigurationError, match="not finite at step .*learning_rate"):
        train("bert", folder_of("bert"), learning_rate=1e30, steps=30, warmup=0.0)
