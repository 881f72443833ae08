"""The ONNX encoder, on a tiny graph written here: a text is the mean of its token ids, and of their squares."""

# ruff: noqa: E402 - what may be missing is asked for first

import asyncio
import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from routellm_core import load_router
from routellm_core.encoders import OnnxEncoder, StackedEncoder, SurfaceEncoder, resolve_encoder
from routellm_core.errors import ConfigurationError, EncoderError, MissingExtraError, RouterFormatError
from routellm_core.policy import RouteRequest, RoutingPolicy
from routellm_core.routers.difficulty import DifficultyRouter
from routellm_core.testing import EncoderContract

WORDS = ["[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"]  # a = 3 ... e = 7
WORDS += [chr(code) for code in range(33, 127) if chr(code) not in "abcde"]
SETTINGS = {"format": 1, "head_tokens": 96, "tail_tokens": 64, "max_characters": 4096}


def write_model(path, *, ids="input_ids", output=("embedding", 2), outputs=1, together=False, number=TensorProto.FLOAT):
    """embedding = mean over tokens of (id, id squared), where the mask is 1; `together`: and over the batch."""
    nodes = [
        helper.make_node("Cast", [ids], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ids", "mask"], ["kept"]),
        helper.make_node("Mul", ["kept", "ids"], ["squared"]),
        helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
        helper.make_node("ReduceSum", ["kept", "axis"], ["sum_1"], keepdims=1),
        helper.make_node("ReduceSum", ["squared", "axis"], ["sum_2"], keepdims=1),
        helper.make_node("Concat", ["sum_1", "sum_2"], ["sums"], axis=1),
        helper.make_node("Div", ["sums", "count"], ["means"]),
        helper.make_node("ReduceMean", ["means"], ["one"], axes=[0], keepdims=1),
        helper.make_node("Cast", ["one" if together else "means"], ["embedding"], to=number),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "tokens"]) for name in (ids, "attention_mask")
    ]
    found = [helper.make_tensor_value_info(output[0], number, ["n", output[1]])]
    found += [helper.make_tensor_value_info("count", TensorProto.FLOAT, ["n", 1])] * (outputs - 1)
    axis = [numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, found, axis),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, path)


def configure(folder, **settings):
    (folder / "config.json").write_text(json.dumps({**SETTINGS, **settings}))
    return folder


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "onnx"
    made.mkdir()
    write_model(made / "model.onnx")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.enable_truncation(4)  # published tokenizers come with both
    tokenizer.enable_padding(length=7)
    tokenizer.save(str(made / "tokenizer.json"))
    return configure(made)


class TestOnnx(EncoderContract):
    @pytest.fixture(autouse=True)
    def _folder(self, folder):
        self.folder = folder

    def make(self):
        return OnnxEncoder(self.folder)


def test_a_text_is_the_mean_over_its_tokens_and_the_special_ones(folder):
    # [CLS] a b [SEP] = 1, 3, 4, 2: mean 10/4, mean square (1 + 9 + 16 + 4)/4
    np.testing.assert_allclose(OnnxEncoder(folder).encode(["a b"]), [[2.5, 7.5]])


def test_an_empty_text_is_its_special_tokens(folder):
    # 1, 2: mean 3/2, mean square 5/2
    np.testing.assert_allclose(OnnxEncoder(folder).encode([""]), [[1.5, 2.5]])


def test_a_text_without_any_token_stays_zero(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.save(str(folder / "tokenizer.json"))
    # beside "a e" = 3, 7: mean 10/2, mean square 58/2
    np.testing.assert_allclose(OnnxEncoder(folder).encode(["", "a e", ""]), [[0, 0], [5, 29], [0, 0]])


def test_a_long_text_keeps_both_ends(folder):
    encoder = OnnxEncoder(configure(folder, head_tokens=3, tail_tokens=2))
    # of [CLS] a b c d e [SEP], the first three and the last two: 1, 3, 4, 7, 2: mean 17/5
    assert encoder.encode(["a b c d e"])[0, 0] == pytest.approx(3.4)
    np.testing.assert_array_equal(encoder.encode(["a b e"]), encoder.encode(["a b c d e"]))  # five tokens fit


def test_without_a_tail_only_the_beginning_is_kept(folder):
    # [CLS] a b = 1, 3, 4
    encoder = OnnxEncoder(configure(folder, head_tokens=3, tail_tokens=0))
    assert encoder.encode(["a b c d e"])[0, 0] == pytest.approx(8 / 3)


def test_characters_are_cut_before_the_tokenizer_sees_them(folder):
    # of ten characters "a b " and "c d e" are left, around a line's end: [CLS] 3 4 5 6 7 [SEP]
    encoder = OnnxEncoder(configure(folder, max_characters=10))
    assert encoder.encode(["a b " + "c " * 500_000 + "d e"])[0, 0] == pytest.approx((1 + 3 + 4 + 5 + 6 + 7 + 2) / 7)


def test_a_batch_comes_back_in_its_order_and_is_run_in_batches_of_like_length(folder, monkeypatch):
    encoder = OnnxEncoder(folder)
    shapes = []
    here = encoder._here()

    class Watched:
        def run(self, names, inputs):
            shapes.append(inputs["input_ids"].shape)
            return here.run(names, inputs)

    monkeypatch.setattr(encoder, "_here", Watched)
    texts = ["a " * (1 + 37 * i % 150) for i in range(100)]  # 3 to 152 tokens, in no order
    found = encoder.encode(texts)
    # n times a (3) between 1 and 2: mean (3 n + 3) / (n + 2)
    counts = np.array([1 + 37 * i % 150 for i in range(100)])
    np.testing.assert_allclose(found[:, 0], (3 * counts + 3) / (counts + 2), rtol=1e-6)
    assert sum(rows for rows, _ in shapes) == 100
    assert max(rows * tokens for rows, tokens in shapes) <= 1024
    assert sum(rows * tokens for rows, tokens in shapes) < 1.15 * (counts + 2).sum()  # padded to the longest: 1.97


def test_many_threads_get_what_one_gets(folder):
    encoder = OnnxEncoder(folder)
    texts = [f"{'a b c d e'[: 1 + 2 * (i % 5)]} {chr(40 + i % 50)}" for i in range(300)]
    with ThreadPoolExecutor(8) as pool:
        found = np.concatenate(list(pool.map(lambda text: encoder.encode([text]), texts)))
    np.testing.assert_allclose(found, encoder.encode(texts), rtol=1e-6)


FORKED = """
import os, sys, threading
import numpy as np
from routellm_core.encoders import OnnxEncoder
from routellm_core.errors import EncoderError
folder = sys.argv[1]
encoder = OnnxEncoder(folder, threads=2)
before = encoder.encode(["a b", "c"])
def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def same():
    first = encoder._sessions[os.getppid()]
    np.testing.assert_array_equal(encoder.encode(["a b", "c"]), before)
    assert encoder._sessions[os.getpid()] is not first, "the parent's session, whose threads are not here"
    assert encoder._here() is encoder._here()
assert forked(same) == 0
with open(folder + "/model.onnx", "ab") as file:
    file.write(b" ")
def changed():
    try:
        encoder.encode(["a"])
    except EncoderError as error:
        assert "forked process" in str(error) and "has changed" in str(error), error
    else:
        raise AssertionError("no error")
assert forked(changed) == 0
np.testing.assert_array_equal(encoder.encode(["a b", "c"]), before)  # the parent has what it had
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_opens_the_model_anew(folder):
    # in a process of its own: Python warns of forks where other tests have left threads
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "done", done.stdout + done.stderr


def test_it_says_that_it_is_not_quick_so_that_no_event_loop_waits_for_it(folder):
    assert not OnnxEncoder(folder).is_quick


def test_a_router_with_one_in_its_stack_is_saved_and_loaded(folder, tmp_path):
    encoder = StackedEncoder([OnnxEncoder(folder), SurfaceEncoder()])
    weights = np.linspace(-0.1, 0.1, encoder.dim)
    router = DifficultyRouter(encoder=encoder, weights=weights)
    router.save(tmp_path / "router")
    shutil.rmtree(folder)
    loaded = load_router(tmp_path / "router")
    texts = ["a b", "c", ""]
    np.testing.assert_array_equal(loaded.win_rate(texts), router.win_rate(texts))
    assert not loaded.is_quick
    [decision] = asyncio.run(RoutingPolicy(loaded, threshold=0.0).adecide([RouteRequest(text="a b")]))
    assert decision.win_rate == pytest.approx(float(router.win_rate(["a b"])[0]))


def test_copies_and_pickles_give_the_same_vectors(folder):
    encoder = OnnxEncoder(folder, threads=2)
    assert copy.deepcopy(encoder) is encoder
    twin = pickle.loads(pickle.dumps(encoder))  # noqa: S301 - our own bytes
    assert (twin.digest, twin.threads) == (encoder.digest, 2)
    np.testing.assert_array_equal(twin.encode(["a b"]), encoder.encode(["a b"]))


def test_the_digest_changes_with_every_file_but_not_with_threads(folder):
    plain = OnnxEncoder(folder).digest
    assert OnnxEncoder(folder, threads=2).digest == plain
    digests = {plain}
    for name in ("head_tokens", "tail_tokens", "max_characters"):
        digests.add(OnnxEncoder(configure(folder, **{name: 7})).digest)
    configure(folder)
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    digests.add(OnnxEncoder(folder).digest)
    assert len(digests) == 5


@pytest.mark.parametrize("name", ["config.json", "model.onnx", "tokenizer.json"])
def test_a_missing_or_damaged_file_is_told_by_its_name(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    with pytest.raises(RouterFormatError, match=name.replace(".", r"\.")):
        OnnxEncoder(folder)
    (folder / name).unlink()
    with pytest.raises(RouterFormatError, match=name.replace(".", r"\.")):
        OnnxEncoder(folder)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"head_tokens": 0}, "head_tokens"),
        ({"tail_tokens": -1}, "tail_tokens"),
        ({"max_characters": 1}, "max_characters"),
        ({"head_tokens": "96"}, "head_tokens"),
        ({"tail_tokens": True}, "tail_tokens"),
        ({"format": 99}, "format 99"),
    ],
)
def test_settings_out_of_range_are_refused(folder, settings, what):
    with pytest.raises(RouterFormatError, match=what):
        OnnxEncoder(configure(folder, **settings))


def test_no_threads_are_refused(folder):
    with pytest.raises(ConfigurationError, match="threads must be at least 1, got 0"):
        OnnxEncoder(folder, threads=0)


@pytest.mark.parametrize(
    "other",
    [
        {"ids": "tokens"},
        {"outputs": 2},
        {"output": ("kept", "tokens")},
        {"number": TensorProto.DOUBLE},
    ],
)
def test_a_model_of_other_inputs_or_outputs_is_refused(folder, other):
    write_model(folder / "model.onnx", **other)
    with pytest.raises(RouterFormatError, match="has the inputs .* expected"):
        OnnxEncoder(folder)


def test_a_model_that_gives_another_width_than_it_declares_is_refused(folder):
    write_model(folder / "model.onnx", output=("embedding", 3))
    with pytest.raises(RouterFormatError, match=r"model\.onnx"):
        OnnxEncoder(folder)


def test_a_model_that_mixes_the_rows_of_a_batch_is_an_encoder_error(folder):
    write_model(folder / "model.onnx", together=True)
    encoder = OnnxEncoder(folder)
    with pytest.raises(EncoderError, match=r"gave shape \(1, 2\), not \(3, 2\)"):
        encoder.encode(["a", "b", "c"])


def test_weights_in_a_file_beside_the_model_are_refused(folder):
    model = onnx.load(folder / "model.onnx")
    onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location="beside", size_threshold=0)
    assert (folder / "beside").exists()
    with pytest.raises(RouterFormatError, match="as one file"):
        OnnxEncoder(folder)


def test_files_that_changed_since_they_were_loaded_are_not_saved(folder, tmp_path):
    encoder = OnnxEncoder(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RouterFormatError, match="has changed"):
        encoder.save_files(tmp_path / "copy")
    shutil.rmtree(folder)
    with pytest.raises(RouterFormatError, match="cannot be read"):
        encoder.save_files(tmp_path / "other")


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_without_its_packages_the_extra_is_named(folder, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*routellm-integrations\[onnx\]"):
        OnnxEncoder(folder)


def test_it_is_resolved_by_its_name_and_by_its_folder(folder):
    for spec in (f"onnx:{folder}", str(folder), folder):
        assert resolve_encoder(spec).digest == OnnxEncoder(folder).digest


def test_encoding_brings_neither_torch_nor_onnx(folder):
    paths = [path for path in sys.path if path]
    script = (
        f"import sys; sys.path[:0] = {paths!r}\nfrom routellm_core.encoders import OnnxEncoder\n"
        f"assert 'onnxruntime' not in sys.modules\nOnnxEncoder({str(folder)!r}).encode(['a'])\n"
        "assert 'onnxruntime' in sys.modules\nprint({'torch', 'transformers', 'onnx'}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
