"""The published checkpoints: their layouts, what they need, and the names that carry a threshold."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from routellm_core import RandomRouter, RoutingPolicy, load_router
from routellm_core.encoders import HashingEncoder, RemoteEncoder
from routellm_core.errors import ConfigurationError, RouterFormatError, UnknownKindError
from routellm_core.policy import POLICY_DEFAULTS, RouteRequest, policy_from
from routellm_core.routers import router_and_threshold
from routellm_core.routers.upstream import ARENA_MODELS, OFFICIAL

PROMPTS = ["hi", "What is the capital of France?", "Prove that 7 is prime.", "", "x" * 20_000]
MF = "routellm/mf_gpt4_augmented"


def embed(texts):
    """A function in the place of text-embedding-3-small: unit vectors from the texts' hashes."""
    rows = []
    for text in texts:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        row = np.random.default_rng(seed).normal(size=1536)
        rows.append((row / np.linalg.norm(row)).tolist())
    return rows


def mf_tensors(**changes):
    rng = np.random.default_rng(8)
    shapes = {"P.weight": (64, 128), "text_proj.0.weight": (128, 1536), "classifier.0.weight": (1, 128)}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tensors.update(changes)
    return {name: array for name, array in tensors.items() if array is not None}


def write_mf(folder, tensors=None, file="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = mf_tensors() if tensors is None else tensors
    if file.endswith(".safetensors"):
        save_file(tensors, folder / file)
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, folder / file)
    # what PyTorchModelHubMixin writes beside the weights: the model's constructor arguments
    config = {"dim": 128, "num_classes": 1, "num_models": 64, "text_dim": 1536, "use_proj": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def formula(tensors, prompts, strong=24, weak=36):
    """The original's arithmetic, prompt by prompt and model by model."""
    win_rates = []
    for prompt in prompts:
        e = np.array(embed([prompt or " "])[0])
        logits = []
        for row in (strong, weak):
            p = tensors["P.weight"][row].astype(float)
            projected = tensors["text_proj.0.weight"].astype(float) @ e
            logits.append(
                float((tensors["classifier.0.weight"].astype(float) @ (p / np.linalg.norm(p) * projected))[0])
            )
        win_rates.append(1 / (1 + np.exp(-(logits[0] - logits[1]))))
    return win_rates


# -- matrix factorization
def test_the_models_are_the_arenas_64_names_in_ascii_order():
    assert len(set(ARENA_MODELS)) == 64
    assert list(ARENA_MODELS) == sorted(ARENA_MODELS)
    rows = {0: "RWKV-4-Raven-14B", 24: "gpt-4-1106-preview", 36: "mixtral-8x7b-instruct-v0.1", 63: "zephyr-7b-beta"}
    assert {row: ARENA_MODELS[row] for row in rows} == rows


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "mf.pt"])
def test_its_scores_are_those_of_the_formula(tmp_path, file):
    router = load_router(write_mf(tmp_path / "mf", file=file), encoder=embed)
    prompts = PROMPTS[:4]
    expected = formula(mf_tensors(), prompts)
    assert max(expected) - min(expected) > 0.1  # else the test could not fail
    np.testing.assert_allclose(router.win_rate(prompts), expected, atol=1e-6)
    pair = router.for_pair("claude-2.1", "vicuna-7b")
    np.testing.assert_allclose(pair.win_rate(prompts), formula(mf_tensors(), prompts, strong=7, weak=58), atol=1e-6)
    assert (router.kind, router.calibration) == ("mf", None)
    assert ((router.win_rate(PROMPTS) >= 0) & (router.win_rate(PROMPTS) <= 1)).all()


def test_a_folder_without_any_config_is_known_by_its_tensors(tmp_path):
    (write_mf(tmp_path / "mf") / "config.json").unlink()
    assert load_router(tmp_path / "mf", encoder=embed).strong == "gpt-4-1106-preview"


def test_saved_by_us_it_loads_with_the_embedding_model_again(tmp_path):
    router = load_router(write_mf(tmp_path / "mf"), encoder=embed)
    router.save(tmp_path / "ours")
    loaded = load_router(tmp_path / "ours", encoder=embed)
    np.testing.assert_array_equal(loaded.win_rate(PROMPTS), router.win_rate(PROMPTS))
    with pytest.raises(ConfigurationError, match="text-embedding-3-small"):
        load_router(tmp_path / "ours")


def test_loading_asks_the_embedding_model_nothing(tmp_path):
    def refuse(texts):
        raise AssertionError("loading is no reason to pay")

    load_router(write_mf(tmp_path / "mf"), encoder=refuse).save(tmp_path / "ours")


@pytest.mark.parametrize("source", ["mf", MF, "folder"])
def test_without_an_encoder_it_says_what_to_give_and_downloads_nothing(tmp_path, source, no_hub):
    source = write_mf(tmp_path / "mf") if source == "folder" else source
    with pytest.raises(ConfigurationError) as caught:
        load_router(source)
    for part in (
        "'text-embedding-3-small' (1536 dimensions)",
        "encoder=",
        "langchain_openai.OpenAIEmbeddings(model='text-embedding-3-small')",
        "llama_index.embeddings.openai.OpenAIEmbedding(model='text-embedding-3-small')",
        "openai.OpenAI()",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            SimpleNamespace(model="text-embedding-3-large", embed_documents=embed),
            r"'text-embedding-3-large'.*RemoteEncoder",
        ),
        (SimpleNamespace(model="text-embedding-3-small", dimensions=512, embed_documents=embed), r"512 dimensions"),
        (RemoteEncoder(embed, name="text-embedding-3-small", dim=512), r"512 dimensions"),
        (HashingEncoder(1536), r"'hashing'"),
        ("hashing:1536", r"'hashing'"),
        (17, r"an encoder is"),
    ],
)
def test_another_embedding_model_is_refused(tmp_path, encoder, message):
    with pytest.raises(ConfigurationError, match=message):
        load_router(write_mf(tmp_path / "mf"), encoder=encoder)


def test_the_same_model_under_another_name_is_taken_at_the_callers_word(tmp_path):
    deployment = SimpleNamespace(model="our-deployment", embed_documents=embed)
    encoder = RemoteEncoder(deployment, name="text-embedding-3-small", dim=1536)
    router = load_router(write_mf(tmp_path / "mf"), encoder=encoder)
    np.testing.assert_allclose(router.win_rate(["hi"]), formula(mf_tensors(), ["hi"]), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"P.weight": np.ones((65, 128), np.float32)}, r"P.weight \(65, 128\).*expected.*P.weight \(64, 128\)"),
        ({"P.weight": np.ones((63, 128), np.float32)}, r"P.weight \(63, 128\)"),
        ({"text_proj.0.weight": np.ones((128, 3072), np.float32)}, r"text_proj.0.weight \(128, 3072\)"),
        ({"classifier.0.weight": np.ones((3, 128), np.float32)}, r"classifier.0.weight \(3, 128\)"),
        ({"classifier.0.weight": None}, r"it holds P.weight \(64, 128\), text_proj.0.weight \(128, 1536\);"),
        ({"classifier.0.bias": np.ones(1, np.float32)}, r"classifier.0.bias \(1,\)"),
    ],
)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_of_another_shape_are_refused(tmp_path, changes, message, file):
    folder = write_mf(tmp_path / "mf", mf_tensors(**changes), file)
    with pytest.raises(RouterFormatError, match=message):
        load_router(folder, encoder=embed)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    tensors = mf_tensors()
    tensors["P.weight"][3, 4] = np.nan
    with pytest.raises(RouterFormatError, match="not finite"):
        load_router(write_mf(tmp_path / "mf", tensors), encoder=embed)


def test_a_torch_file_that_would_run_code_runs_none(tmp_path):
    torch = pytest.importorskip("torch")

    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "harm"), "w")

    folder = write_mf(tmp_path / "mf", file="mf.pt")
    torch.save({"P.weight": Harm()}, folder / "mf.pt")
    with pytest.raises(RouterFormatError, match="mf.pt cannot be read as weights"):
        load_router(folder, encoder=embed)
    assert not (tmp_path / "harm").exists()


def test_two_torch_files_are_one_too_many_and_a_foreign_folder_is_no_router(tmp_path):
    folder = write_mf(tmp_path / "mf", file="mf.pt")
    (folder / "other.pt").write_bytes(b"")
    with pytest.raises(RouterFormatError):
        load_router(folder, encoder=embed)
    save_file({"embeddings": np.ones((3, 4), np.float32)}, write_mf(tmp_path / "other") / "model.safetensors")
    with pytest.raises(RouterFormatError, match="format None"):
        load_router(tmp_path / "other", encoder=embed)


# -- by name
@pytest.fixture
def no_hub(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*arguments, **options):
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(hub, "snapshot_download", refuse)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has the official MF router; notes what was asked for."""
    module = pytest.importorskip("huggingface_hub")
    folder, asked = write_mf(tmp_path / "snapshot"), []

    def download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        if name != MF:
            raise OSError("404")
        return str(folder)

    monkeypatch.setattr(module, "snapshot_download", download)
    return SimpleNamespace(asked=asked, folder=folder)


@pytest.mark.parametrize("name", ["mf", MF])
def test_the_hubs_name_and_the_short_one_mean_the_same(hub, name):
    router = load_router(name, encoder=embed)
    np.testing.assert_allclose(router.win_rate(PROMPTS[:2]), formula(mf_tensors(), PROMPTS[:2]), atol=1e-6)
    assert router.name == MF
    assert [name for name, _ in hub.asked] == [MF]
    assert "*.bin" not in hub.asked[0][1]


def test_torchs_files_are_fetched_only_where_there_are_no_others(hub):
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(RouterFormatError):
        load_router("mf", encoder=embed)  # this hub has neither
    assert ["*.bin" in patterns for _, patterns in hub.asked] == [False, True]


def test_a_copy_in_the_working_directory_needs_no_hub(no_hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mf(tmp_path / "routellm" / "mf_gpt4_augmented")
    assert load_router(MF, encoder=embed).name == load_router("mf", encoder=embed).name == MF
    write_mf(tmp_path / "mf", mf_tensors(**{"P.weight": np.ones((64, 128), np.float32)}))
    assert load_router("mf", encoder=embed).win_rate(["hi"])[0] == 0.5  # an own folder of the short name comes first
    assert (
        RoutingPolicy("router-mf-0.1", encoder=embed).router.win_rate(["hi"])[0] != 0.5
    )  # this names the official one


# -- names with a threshold
@pytest.mark.parametrize(
    ("name", "router", "threshold"),
    [
        ("router-mf-0.11593", MF, 0.11593),
        ("router-mf-0", MF, 0.0),
        ("router-mf-1e-2", MF, 0.01),
        ("router-bert-1.0", "routellm/bert_gpt4_augmented", 1.0),
        ("router-causal_llm-.25", "routellm/causal_llm_gpt4_augmented", 0.25),
        ("router-causal-0.25", "routellm/causal_llm_gpt4_augmented", 0.25),
        ("router-random-0.5", "random", 0.5),
        ("router-sw_ranking-0.3", "sw_ranking", 0.3),
    ],
)
def test_a_name_gives_its_router_and_its_threshold(name, router, threshold):
    assert router_and_threshold(name) == (router, threshold)


@pytest.mark.parametrize("name", ["default", "random", "mf", MF, "router", "router-org/repository", "./router-mf-0.5"])
def test_other_names_are_left_alone(name):
    assert router_and_threshold(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "router-",
        "router-mf",
        "router-mf-",
        "router-mf-x",
        "router-mf-1.5",
        "router-mf--0.5",
        "router-mf-nan",
        "router--0.5",
    ],
)
def test_a_malformed_name_is_refused(name):
    with pytest.raises(ConfigurationError, match=r"router-mf-0\.11593"):
        RoutingPolicy(name, encoder=embed)


def test_an_unknown_router_lists_the_known_ones():
    with pytest.raises(UnknownKindError, match="bert, causal, causal_llm, mf, random, sw, sw_ranking"):
        RoutingPolicy("router-gpt-0.5")


def test_a_policy_of_such_a_name_cuts_there(hub):
    policy = RoutingPolicy("router-mf-0.11593", encoder=embed)
    assert policy.thresholds == (0.11593,)
    prompts = [f"question {i}" for i in range(40)]
    expected = ["strong" if rate >= 0.11593 else "weak" for rate in formula(mf_tensors(), prompts)]
    assert set(expected) == {"strong", "weak"}
    assert [each.route for each in policy.decide([RouteRequest(text=p) for p in prompts])] == expected
    assert policy.settings()["router"] == MF


def test_random_at_a_threshold_sends_that_share_weak():
    policy = RoutingPolicy("router-random-0.25")
    decisions = policy.decide([RouteRequest(text=str(i)) for i in range(4000)])
    weak = sum(each.route == "weak" for each in decisions)
    assert abs(weak - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)  # five standard deviations


@pytest.mark.parametrize("more", [{"threshold": 0.11593}, {"threshold": 0.0}, {"strong_share": 0.5}])
def test_a_second_threshold_is_refused(more):
    with pytest.raises(ConfigurationError, match="names its threshold"):
        RoutingPolicy("router-random-0.5", **more)


def test_three_routes_need_more_than_one_threshold():
    with pytest.raises(ConfigurationError, match="3 routes need 2"):
        RoutingPolicy("router-random-0.5", routes=("a", "b", "c"))


def test_a_router_by_itself_keeps_no_threshold():
    with pytest.raises(ConfigurationError, match="RoutingPolicy"):
        load_router("router-random-0.5")


def test_a_folder_of_such_a_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RandomRouter(seed=3).save(tmp_path / "router-mf-0.5")
    assert RoutingPolicy("router-mf-0.5").router.seed == 3


def test_a_published_router_has_no_threshold_of_its_own(hub):
    with pytest.raises(ConfigurationError, match="no calibration: give threshold="):
        RoutingPolicy("mf", encoder=embed)
    assert RoutingPolicy("mf", encoder=embed, threshold=0.2).thresholds == (0.2,)


@pytest.mark.parametrize("name", ["sw", "sw_ranking"])
def test_the_similarity_weighted_router_needs_its_data(name):
    for load in (load_router, lambda name: RoutingPolicy(f"router-{name}-0.3")):
        with pytest.raises(ConfigurationError, match=r"no checkpoint.*routellm train sw"):
            load(name)


def test_an_encoder_goes_with_a_name_only():
    with pytest.raises(ConfigurationError, match="encoder= goes with a router's name"):
        RoutingPolicy(RandomRouter(), encoder=embed)
    for name in ("random", "router-random-0.5", "bert", "router-bert-0.5"):
        with pytest.raises(ConfigurationError, match="uses no encoder"):
            RoutingPolicy(name, encoder=embed)
    assert POLICY_DEFAULTS["encoder"] is None
    with pytest.raises(ConfigurationError, match="encoder"):
        policy_from(RoutingPolicy(RandomRouter()), ("weak", "strong"), {"encoder": embed})


def test_the_command_line_takes_such_a_name(loopback, tmp_path):
    pytest.importorskip("openai")
    write_mf(tmp_path / "routellm" / "mf_gpt4_augmented")
    environment = {"OPENAI_BASE_URL": loopback.url, "OPENAI_API_KEY": "none", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "routellm_core", "score", "hi", "--router", "router-mf-0.11593"]
    more = ["--encoder", "openai:text-embedding-3-small", "--json"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    tensors, e = mf_tensors(), loopback.vector("hi").astype(float)
    p = [tensors["P.weight"][i] / np.linalg.norm(tensors["P.weight"][i]) for i in (24, 36)]
    delta = tensors["classifier.0.weight"][0].astype(float) * (p[0] - p[1]) @ (tensors["text_proj.0.weight"] @ e)
    assert row["win_rate"] == pytest.approx(1 / (1 + np.exp(-delta)), abs=2e-6)
    assert row["route"] == ("strong" if row["win_rate"] >= 0.11593 else "weak")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode != 0
    assert "text-embedding-3-small" in done.stderr


# -- transformers
WORDS = [
    "[UNK]",
    "[PAD]",
    "hi",
    "what",
    "is",
    "the",
    "capital",
    "of",
    "france",
    "?",
    "prove",
    "that",
    "7",
    "prime",
    ".",
]
TRANSFORMER_PROMPTS = ["hi", "what is the capital of france ?", "prove that 7 is prime .", "", "hi " * 30]


def tokenizer_of(words, special=(), begin=None):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", bos_token=begin, model_max_length=64
    )
    fast.add_tokens(list(special), special_tokens=True)
    return fast


def write_bert(folder, **config):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes["initializer_range"] = 0.5  # so that prompts differ
    config = transformers.XLMRobertaConfig(
        vocab_size=len(WORDS), pad_token_id=1, max_position_embeddings=66, **{**sizes, "num_labels": 3, **config}
    )
    model = transformers.XLMRobertaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer_of(WORDS).save_pretrained(folder)
    return model


def test_the_published_bert_gives_the_softmax_of_its_first_label(tmp_path):
    torch = pytest.importorskip("torch")
    model = write_bert(tmp_path / "bert")
    router = load_router(tmp_path / "bert")
    assert router.kind == "bert"
    tokenizer, expected = tokenizer_of(WORDS), []
    for prompt in TRANSFORMER_PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        if not ids:
            continue
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
        exponentials = np.exp(logits - logits.max())
        expected.append(1 - (exponentials / exponentials.sum())[-2:].sum())  # neither a tie nor the weak model's win
    assert max(expected) - min(expected) > 0.1
    np.testing.assert_allclose(router.win_rate([p for p in TRANSFORMER_PROMPTS if p]), expected, atol=1e-5)
    assert router.calibration is None


@pytest.mark.parametrize(
    "config", [{"num_labels": 2}, {"id2label": {0: "negative", 1: "neutral", 2: "positive"}}], ids=["two", "sentiment"]
)
def test_somebody_elses_classifier_is_no_router(tmp_path, config):
    if "id2label" in config:
        config = {**config, "label2id": {name: i for i, name in config["id2label"].items()}}
    write_bert(tmp_path / "bert", **config)
    with pytest.raises(RouterFormatError, match="LABEL_0, LABEL_1, LABEL_2 for strong wins, tie, weak wins"):
        load_router(tmp_path / "bert")


LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LABELS = tuple(f"[[{i}]]" for i in range(1, 6))
TEXTS = {"system_ft_v5.txt": "predict the capital .\n", "classifier_ft_v5.txt": "prove\n{question}\n\nthat :\n"}


def write_causal(folder, *, labels_in_tokenizer=True, vocabulary=None, texts=TEXTS):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(7)
    words = [*WORDS, "predict", ":", "system", "user", "assistant"]
    base = tokenizer_of(words, LLAMA, begin=LLAMA[0])
    whole = tokenizer_of(words, (*LLAMA, *LABELS), begin=LLAMA[0])
    config = transformers.LlamaConfig(
        vocab_size=len(whole) if vocabulary is None else vocabulary,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.6,  # so that prompts differ
        bos_token_id=len(words),
        eos_token_id=len(words) + 3,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[-5:] *= 1.5  # so that a label is mostly the likeliest token, but not always
        model.model.layers[0].self_attn.v_proj.weight *= 2
    model.save_pretrained(folder)
    (whole if labels_in_tokenizer else base).save_pretrained(folder)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return model, whole


@pytest.mark.parametrize("labels_in_tokenizer", [True, False])
def test_the_published_causal_router_reads_the_label_where_it_would_be_generated(tmp_path, labels_in_tokenizer):
    torch = pytest.importorskip("torch")
    model, tokenizer = write_causal(tmp_path / "causal", labels_in_tokenizer=labels_in_tokenizer)
    router = load_router(tmp_path / "causal")
    assert router.kind == "causal"
    model, first_label = model.to(torch.bfloat16), len(tokenizer) - 5
    prompts, expected, unlabelled = [f"{a} {b}" for a in WORDS[2:] for b in WORDS[2:]], [], 0
    for prompt in prompts:
        # Llama 3's headers around the two texts, each stripped; then what the model answers with before the label
        text = (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\npredict the capital .<|eot_id|>"
            f"<|start_header_id|>user<|end_header_id|>\n\nprove\n{prompt}\n\nthat :<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert router.template.ids([prompt]) == [ids]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()
        exponentials = np.exp(logits[first_label:] - logits[first_label:].max())
        is_label = logits.argmax() >= first_label
        unlabelled += not is_label
        # 1 - P(score >= 4); without a label the original routes to the strong model
        expected.append(1 - (exponentials / exponentials.sum())[3:].sum() if is_label else 1.0)
    given = router.win_rate(prompts)
    labelled = np.array(expected) < 1
    assert np.ptp(np.array(expected)[labelled]) > 0.3
    # bfloat16 keeps three digits, and two tokens may swap places at the top
    agree = np.abs(given - expected) < 0.03
    assert agree.mean() > 0.97
    assert 10 < unlabelled < 150
    assert (given == 1).sum() == pytest.approx(unlabelled, abs=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": {"system_ft_v5.txt": "x"}}, "classifier_ft_v5.txt beside the weights cannot be read"),
        ({"texts": {**TEXTS, "classifier_ft_v5.txt": "no place"}}, "where the prompt goes"),
        (
            {"labels_in_tokenizer": False, "vocabulary": 24},
            "its tokenizer with the labels .* has 29 tokens, its model 24",
        ),
    ],
)
def test_somebody_elses_language_model_is_no_router(tmp_path, changes, message):
    write_causal(tmp_path / "causal", **changes)
    with pytest.raises(RouterFormatError, match=message):
        load_router(tmp_path / "causal")


def test_a_path_is_a_folder_and_never_a_name(no_hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mf", "sw", "router-mf-0.5"):
        with pytest.raises(UnknownKindError, match="an existing folder"):
            load_router(Path(name), encoder=embed)


def test_every_published_router_is_found_by_its_names():
    names = [name for each in OFFICIAL for name in (*each.names, each.hub)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "config", [{"architectures": 5}, {"architectures": ["XForSequenceClassification"], "id2label": 5}]
)
def test_a_config_that_is_not_what_it_should_be_is_no_router(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RouterFormatError):
        load_router(tmp_path)
