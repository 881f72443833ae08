"""Things the core's tests share."""

import pytest


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
