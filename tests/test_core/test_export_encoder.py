"""tools/export_encoder.py: a BERT of two layers with random weights, written as 8-bit ONNX and run without torch."""

# ruff: noqa: E402 - what may be missing is asked for first

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from routellm_core.encoders import OnnxEncoder
from routellm_core.errors import ConfigurationError, RouterFormatError
from routellm_core.testing import EncoderContract
from routellm_core.testing.contracts import ODD_TEXTS, PLAIN_TEXTS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LETTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
PIECES = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(PIECES),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
TEXTS = [*PLAIN_TEXTS, *ODD_TEXTS]


@pytest.fixture(scope="module")
def tool():
    """The script as a module; what it adds to sys.path is taken away again."""
    path = Path(__file__).resolve().parents[2] / "tools" / "export_encoder.py"
    spec = importlib.util.spec_from_file_location("export_encoder", path)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def random_weights():
    rng = np.random.default_rng(3)
    width, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    weights = {}

    def add(name, *shape, mean=0.0):
        weights[name] = (mean + rng.normal(scale=0.3, size=shape)).astype(np.float32)

    def norm(name):
        add(f"{name}.weight", width, mean=1.0)
        add(f"{name}.bias", width)

    for name, rows in (("word", len(PIECES)), ("position", 80), ("token_type", 2)):
        add(f"embeddings.{name}_embeddings.weight", rows, width)
    norm("embeddings.LayerNorm")
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        for name, out, into in (
            *((f"attention.self.{part}", width, width) for part in ("query", "key", "value")),
            ("attention.output.dense", width, width),
            ("intermediate.dense", inner, width),
            ("output.dense", width, inner),
        ):
            add(f"{at}.{name}.weight", out, into)
            add(f"{at}.{name}.bias", out)
        norm(f"{at}.attention.output.LayerNorm")
        norm(f"{at}.output.LayerNorm")
    return weights


@pytest.fixture(scope="module")
def model():
    return random_weights(), CONFIG


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = Tokenizer(WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", PIECES.index("[CLS]")), ("[SEP]", PIECES.index("[SEP]"))]
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.fixture
def export(tool, model, tokenizer, tmp_path):
    def exported(name="encoder", **options):
        options = {"layers": (1, 2), "head_tokens": 50, "tail_tokens": 30, **options}
        tool.export_encoder(
            options.pop("model", model), options.pop("tokenizer", tokenizer), tmp_path / name, **options
        )
        return tmp_path / name

    return exported


class TestExported(EncoderContract):
    @pytest.fixture(autouse=True)
    def _export(self, export):
        self.folder = export()

    def make(self):
        return OnnxEncoder(self.folder)


def cosines(one, other):
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def run(graph, ids, mask=None):
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids) if mask is None else mask})[0]


@pytest.fixture
def batch():
    """Three rows of 20, 7 and 1 tokens, padded."""
    ids = np.random.default_rng(5).integers(4, len(PIECES), size=(3, 20))
    mask = (np.arange(20) < np.array([[20], [7], [1]])).astype(np.int64)
    return ids * mask, mask


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("layers", [(2,), (0, 2), (2, 1)])
def test_in_float32_the_graph_gives_what_transformers_gives(tool, model, batch, layers, normalise):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    bert = transformers.BertModel(transformers.BertConfig(**CONFIG), add_pooling_layer=False).eval()
    bert.load_state_dict({name: torch.from_numpy(value) for name, value in model[0].items()})
    ids, mask = batch
    with torch.inference_mode():
        states = bert(torch.from_numpy(ids), torch.from_numpy(mask), output_hidden_states=True).hidden_states
    means = [
        (states[layer].numpy() * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True) for layer in layers
    ]
    if normalise:
        means = [mean / np.linalg.norm(mean, axis=1, keepdims=True) for mean in means]
    graph = tool.graph(*model, layers=layers, normalise=normalise, positions=80, bits=32)
    np.testing.assert_allclose(run(graph, ids, mask), np.concatenate(means, axis=1), atol=3e-6)


def test_with_8_bits_vectors_stay_near_those_of_float32(tool, model, batch):
    exact, short = (run(tool.graph(*model, layers=(1, 2), positions=80, bits=bits), *batch) for bits in (32, 8))
    assert cosines(exact, short).min() > 0.998
    assert not np.array_equal(exact, short)


def test_a_text_has_the_same_vector_whatever_stands_beside_it(export):
    encoder = OnnxEncoder(export())
    texts = [text for text in TEXTS for _ in range(3)] + ["!" * n for n in range(1, 90)]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), alone, atol=2e-6)


def test_a_head_is_applied_to_the_layers_side_by_side(export):
    rng = np.random.default_rng(11)
    weight, bias = rng.normal(size=(3, 64)), rng.normal(size=3)
    plain, headed = OnnxEncoder(export("plain")), OnnxEncoder(export("headed", head=(weight, bias)))
    assert (plain.dim, headed.dim) == (64, 3)
    np.testing.assert_allclose(headed.encode(TEXTS), plain.encode(TEXTS) @ weight.T + bias, atol=1e-5)


def test_the_same_model_gives_the_same_bytes(export):
    one, other = export("one"), export("other")
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name
    assert OnnxEncoder(one).digest == OnnxEncoder(other).digest


def test_a_torch_module_gives_the_bytes_that_its_files_give(tool, export, model, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    bert = transformers.BertForSequenceClassification(transformers.BertConfig(**CONFIG))
    bert.bert.load_state_dict({name: torch.from_numpy(value) for name, value in model[0].items()}, strict=False)
    head = torch.nn.Linear(64, 2, bias=False)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(export("base") / "tokenizer.json"))
    one = export("one", model=bert, head=head, tokenizer=fast)
    other = export("other", head=(head.weight.detach().numpy(), np.zeros(2)))
    assert (one / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()
    np.testing.assert_array_equal(OnnxEncoder(one).encode(TEXTS), OnnxEncoder(other).encode(TEXTS))


def test_layers_above_the_last_chosen_one_are_left_out(export):
    sizes = [(export(str(last), layers=(last,)) / "model.onnx").stat().st_size for last in (0, 1, 2)]
    # a layer of 8-bit weights: 4 * 32 * 32 + 2 * 32 * 64 = 8192 bytes
    assert sizes[1] - sizes[0] > 8192
    assert sizes[2] - sizes[1] > 8192


def test_weights_become_whole_numbers_of_which_no_pair_overflows(tool):
    # pairs |3| + |1| = 4 and |2| + |-2| = 4: a step is 4/126, so 94.5 (to even: 94), 31.5 (32), 63 and -63
    whole, scale = tool.quantised_weights(np.array([[3, 1, 2, -2]], dtype=np.float32))
    np.testing.assert_allclose(scale, [4 / 126], rtol=1e-6)
    np.testing.assert_allclose(whole, [[94.5, 31.5, 63, -63]], atol=0.5)
    weight = np.random.default_rng(0).normal(size=(500, 33)).astype(np.float32)
    weight[0] = 0
    whole, scale = tool.quantised_weights(weight)
    sizes = np.abs(np.pad(whole, ((0, 0), (0, 1))).astype(int)).reshape(500, -1, 2).sum(axis=2)
    assert sizes.max() * 255 < 2**15  # the largest activation times a pair, in 16 bits
    assert sizes.max() >= 126
    np.testing.assert_allclose(whole * scale[:, None], weight, atol=scale.max() / 2 * 1.001)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"layers": ()}, "layers"),
        ({"layers": (1, 1)}, "layers"),
        ({"layers": (3,)}, "from 0 to 2"),
        ({"layers": (-1,)}, "layers"),
        ({"head_tokens": 51}, "from 2 to 80, got 81"),
        ({"head": (np.ones((3, 32)), np.ones(3))}, "the layers give 64"),
        ({"head": (np.ones((3, 64)), np.ones(2))}, "a head has shapes"),
        ({"model": ({}, {**CONFIG, "hidden_act": "relu"})}, "hidden_act 'gelu'"),
        ({"model": ({}, {**CONFIG, "model_type": "roberta"})}, "model_type 'bert'"),
    ],
)
def test_what_cannot_be_exported_is_refused(export, options, what):
    with pytest.raises(ConfigurationError, match=what):
        export(**options)


def test_a_folder_whose_settings_or_tokenizer_outgrow_the_graph_is_refused_when_it_is_loaded(export):
    folder = export()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "head_tokens": 51}))
    with pytest.raises(RouterFormatError, match="cannot run 81 tokens"):
        OnnxEncoder(folder)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["longer"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(RouterFormatError, match=f"ids up to {len(PIECES)} "):
        OnnxEncoder(folder)


@pytest.mark.parametrize("tail_tokens", [10, 0])
def test_the_command_writes_the_folder_and_prints_how_near_it_is(
    tool, model, tokenizer, tmp_path, monkeypatch, capsys, tail_tokens
):
    source = tmp_path / "source"
    source.mkdir()
    save_file(model[0], source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(CONFIG))
    (source / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (tmp_path / "texts.txt").write_text("\n".join([*PLAIN_TEXTS, "x " * 200]))
    command = f"export_encoder --model {source} --out {tmp_path / 'made'} --layers 2 0 --head-tokens 20"
    command += f" --tail-tokens {tail_tokens}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--measure", str(tmp_path / "texts.txt")])
    tool.main()
    printed = capsys.readouterr().out
    assert "vectors of 64 numbers" in printed
    assert "cosine to float32, 5 texts: mean 0.99" in printed
    assert OnnxEncoder(tmp_path / "made").head_tokens == 20
