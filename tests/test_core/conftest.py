"""Things the core's tests share."""

import importlib.util

import pytest

from routellm_core.errors import MissingExtraError

EXTRAS = ("datasketch", "matplotlib", "pandas", "pyarrow", "scipy", "sklearn")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """The core is also tested as it is installed without extras; what needs one is skipped there, and only there."""
    try:
        return (yield)
    except (MissingExtraError, ModuleNotFoundError) as error:
        package = (error.name or "").partition(".")[0]
        if package in EXTRAS and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
        raise


@pytest.fixture(scope="session")
def static_folder(tmp_path_factory):
    """A model2vec folder of a few words and letters, made in memory: no download."""
    import numpy as np
    from model2vec import StaticModel
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    words = ["[UNK]", "[PAD]", "what", "is", "the", "capital", "of", "france", "prove", "that", "hi", "sheep", "a"]
    letters = [chr(code) for code in range(ord("b"), ord("z") + 1)]
    pieces = [*words, *letters, *(f"##{letter}" for letter in ["a", *letters]), "?", "."]
    tokenizer = Tokenizer(WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    vectors = np.random.default_rng(7).normal(size=(len(pieces), 16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("static") / "model"
    StaticModel(vectors, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert_folder(tmp_path_factory):
    """An encoder of two layers with random weights and a tokenizer of single letters, as transformers saves them."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", pieces.index("[CLS]")), ("[SEP]", pieces.index("[SEP]"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=80,
        initializer_range=0.5,  # as it comes, a random model's outputs hardly depend on the text
    )
    folder = tmp_path_factory.mktemp("bert") / "model"
    BertModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_causal_folder(tmp_path_factory):
    """A Llama of two layers with random weights, a tokenizer of bytes and a chat template."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|start|>", "<|end|>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|start|>", eos_token="<|end|>")
    fast.chat_template = (
        "{% for m in messages %}<|start|>{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant: {% endif %}"
    )
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=400,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    folder = tmp_path_factory.mktemp("causal") / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
