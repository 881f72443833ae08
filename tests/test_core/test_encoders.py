"""Encoders: the contract for each kind, and what is particular to one."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from routellm_core.encoders import ENCODERS, HashingEncoder, StackedEncoder, StaticEncoder, SurfaceEncoder
from routellm_core.encoders.text import clean_and_cut
from routellm_core.errors import ConfigurationError, EncoderError, RouterFormatError, UnknownKindError
from routellm_core.testing import EncoderContract


class TestHashing(EncoderContract):
    def make(self):
        return HashingEncoder(256)

    def test_texts_that_share_words_are_nearer_than_texts_that_share_none(self):
        near, base, far = self.make().encode(["the cat sat on a mat", "the cat sat on the mat", "quantum flux 9"])
        assert near @ base > 0.6 > 0.3 > far @ base

    def test_case_makes_no_difference(self):
        upper, lower = self.make().encode(["HELLO World", "hello world"])
        np.testing.assert_array_equal(upper, lower)

    def test_n_grams_do_not_cross_from_one_text_into_the_next(self):
        encoder = self.make()
        np.testing.assert_array_equal(encoder.encode(["abc", "def"])[0], encoder.encode(["abc", "xyz"])[0])

    def test_a_batch_larger_than_one_block_is_the_same_as_its_parts(self):
        encoder = HashingEncoder(64, ngrams=(3,), max_characters=5000)
        texts = [f"{i} " + "lorem ipsum " * 400 for i in range(500)]  # 2.4 million characters
        whole = encoder.encode(texts)
        np.testing.assert_array_equal(whole[[0, 250, 499]], encoder.encode([texts[0], texts[250], texts[499]]))

    def test_the_digest_changes_with_every_setting(self):
        digests = {
            HashingEncoder(*a, **k).digest
            for a, k in [((256,), {}), ((128,), {}), ((256,), {"ngrams": (3,)}), ((256,), {"max_characters": 100})]
        }
        assert len(digests) == 4

    @pytest.mark.parametrize("arguments", [{"dim": 0}, {"ngrams": ()}, {"ngrams": (0,)}, {"max_characters": 1}])
    def test_settings_out_of_range_are_refused(self, arguments):
        with pytest.raises(ConfigurationError):
            HashingEncoder(**arguments)


class TestStatic(EncoderContract):
    @pytest.fixture(autouse=True)
    def _folder(self, static_folder):
        self.folder = static_folder

    def make(self):
        return StaticEncoder(self.folder)

    def test_many_threads_get_what_one_gets(self):
        encoder = self.make()
        texts = [f"what is {i} of the capital" for i in range(400)]
        expected = encoder.encode(texts)
        with ThreadPoolExecutor(8) as pool:
            found = np.concatenate(list(pool.map(lambda text: encoder.encode([text]), texts)))
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_the_end_of_a_long_text_counts(self):
        beginning = "what is the capital of france " * 100  # well over 512 tokens
        one, other = self.make().encode([beginning + "sheep", beginning + "prove"])
        assert not np.array_equal(one, other)

    def test_vectors_are_the_librarys_own(self):
        from model2vec import StaticModel

        texts = ["what is the capital of france?", "zzz prove", "hi"]
        library = StaticModel.from_pretrained(self.folder).encode(texts)
        np.testing.assert_allclose(self.make().encode(texts), library, atol=1e-6)

    def test_another_weight_is_another_digest(self, tmp_path):
        changed = shutil.copytree(self.folder, tmp_path / "copy")
        content = bytearray((changed / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (changed / "model.safetensors").write_bytes(content)
        assert StaticEncoder(changed).digest != self.make().digest

    def test_a_folder_without_a_file_is_a_format_error_that_names_it(self, tmp_path):
        changed = shutil.copytree(self.folder, tmp_path / "copy")
        (changed / "tokenizer.json").unlink()
        with pytest.raises(RouterFormatError, match=r"tokenizer\.json missing"):
            StaticEncoder(changed)

    def test_damaged_weights_are_a_format_error(self, tmp_path):
        changed = shutil.copytree(self.folder, tmp_path / "copy")
        (changed / "model.safetensors").write_bytes(b"\x08")
        with pytest.raises(RouterFormatError, match="cannot be loaded"):
            StaticEncoder(changed)


class TestStacked(EncoderContract):
    @pytest.fixture(autouse=True)
    def _folder(self, static_folder):
        self.folder = static_folder

    def make(self):
        return StackedEncoder([HashingEncoder(32), SurfaceEncoder(), StaticEncoder(self.folder)])

    def test_its_vectors_are_those_of_its_parts_in_order(self):
        stacked = self.make()
        parts = np.concatenate([encoder.encode(["a text"]) for encoder in stacked.encoders], axis=1)
        np.testing.assert_array_equal(stacked.encode(["a text"]), parts)

    def test_the_order_is_part_of_the_digest(self):
        one, other = HashingEncoder(32), SurfaceEncoder()
        assert StackedEncoder([one, other]).digest != StackedEncoder([other, one]).digest

    def test_an_empty_stack_is_refused(self):
        with pytest.raises(ConfigurationError):
            StackedEncoder([])

    def test_settings_without_parts_are_a_format_error(self, tmp_path):
        with pytest.raises(RouterFormatError):
            StackedEncoder.restore({}, tmp_path)


def test_an_encoder_that_gives_a_wrong_shape_or_nan_is_an_encoder_error():
    class Broken(HashingEncoder):
        result = np.zeros((1, 3), dtype=np.float32)

        def _encode(self, texts):
            return self.result

    broken = Broken(4)
    with pytest.raises(EncoderError, match="shape"):
        broken.encode(["x"])
    broken.result = np.full((1, 4), np.nan, dtype=np.float32)
    with pytest.raises(EncoderError, match="not finite for text 0"):
        broken.encode(["x"])


def test_a_foreign_error_inside_an_encoder_does_not_carry_the_text():
    class Broken(HashingEncoder):
        def _encode(self, texts):
            raise KeyError(texts[0])

    with pytest.raises(EncoderError) as caught:
        Broken(4).encode(["my secret"])
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_long_text_keeps_its_beginning_and_its_end():
    cut = clean_and_cut(["<" + "x" * 1000 + ">"], 100)[0]
    assert len(cut) == 100
    assert cut[0] == "<"
    assert cut[-1] == ">"


def test_short_texts_are_untouched_and_lone_surrogates_replaced():
    assert clean_and_cut(["short", "é🙂", "a\ud800b"], 100) == ["short", "é🙂", "a\ufffdb"]


def test_a_cut_through_a_pair_of_characters_still_encodes():
    for text in clean_and_cut(["🙂" * 100, "\ud83d\ude42" * 100], 33):
        text.encode()


@pytest.mark.parametrize("kind", sorted(ENCODERS.table))
def test_every_registered_kind_loads_and_knows_its_name(kind):
    assert ENCODERS.load(kind).kind == kind


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(UnknownKindError, match="hashing, .*static"):
        ENCODERS.load("word2vec")


def test_a_description_is_plain_json():
    json.dumps(StackedEncoder([HashingEncoder(8)]).describe(), allow_nan=False)
