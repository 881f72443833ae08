"""Write a BERT model as the folder that `OnnxEncoder` reads: one ONNX graph of 8-bit weights, run without torch.

    python tools/export_encoder.py --model FOLDER --out build/encoder --layers 4 5 6 --measure prompts.txt

Needs the packages onnx and safetensors, and with `--measure` the extra "onnx". `export_encoder` also takes a torch
module from memory, fine-tuned or not, and a linear head. The graph is written out node by node: the same weights
give the same file, byte for byte, whatever exporters there are.

How the numbers are kept (compared with float32 on real prompts, see `--measure`):

- Weights are 8-bit integers with one scale an output channel. Scaled so that two neighbouring ones never add up to
  more than 127 in size: processors without VNNI add products in pairs, in 16 bits, and would overflow, silently and
  so that another machine gives other vectors. Halving the range instead (onnxruntime's `reduce_range`) costs twice
  the error.
- Activations are 8-bit integers with one scale a token, found as the graph runs. One scale a batch, which
  `onnxruntime.quantization.quantize_dynamic` takes, has twice the error and lets a text's neighbours in the batch
  change its vector.
- Word embeddings are 8-bit integers with one scale a word. Everything else is float32.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "shared"))

from routellm_core.errors import ConfigurationError
from routellm_core.persistence import FORMAT, write_bytes, write_config

__all__ = ["export_encoder", "graph", "read_model"]

Weights = Mapping[str, NDArray[np.float32]]
Head = tuple[NDArray[np.float32], NDArray[np.float32]]

LARGEST_PAIR = 127  # 255 (the largest activation) times this stays below 2**15
SMALLEST = 1e-30  # scale of what is all zeros


def export_encoder(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    layers: Sequence[int] = (4, 5, 6),
    normalise: bool = True,
    head: Any = None,
    head_tokens: int = 96,
    tail_tokens: int = 64,
    max_characters: int = 4096,
) -> None:
    """Write model.onnx, tokenizer.json and config.json.

    A text's vector is the mean over its tokens of each chosen layer's outputs, side by side in the order given, and
    then the head's.

    Args:
        model: A `BertModel`, a model that holds one as `.bert`, or what `read_model` gives.
        tokenizer: Path of a tokenizer.json, or a fast tokenizer of transformers.
        folder: Made when missing; files of the same names are replaced.
        layers: Whose outputs are averaged; 0 is the embeddings. Layers above the last of them are left out.
        normalise: Scale each layer's mean to unit length, before the head.
        head: None, a `torch.nn.Linear`, or a pair: weights of shape (dim, width) and bias of shape (dim,).
        head_tokens: How many tokens of a longer text's beginning are kept, the special one counted.
        tail_tokens: How many of its end.
        max_characters: To which texts are cut before the tokenizer sees them.

    Raises:
        ConfigurationError: A model that is no BERT with GELU and absolute positions, or settings it does not have.
    """
    weights, config = model if isinstance(model, tuple) else _unpacked(model)
    whole = graph(
        weights, config, layers=layers, normalise=normalise, head=_pair(head), positions=head_tokens + tail_tokens
    )
    if isinstance(tokenizer, (str, Path)):
        written = Path(tokenizer).read_bytes()
    else:
        written = tokenizer.backend_tokenizer.to_str().encode()
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "model.onnx", whole)
    write_bytes(folder / "tokenizer.json", written)
    kept = {"head_tokens": head_tokens, "tail_tokens": tail_tokens, "max_characters": max_characters}
    write_config(folder, {"format": FORMAT, **kept})


def read_model(folder: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights and configuration of a folder that `BertModel.save_pretrained` wrote; no torch needed."""
    from safetensors.numpy import load_file

    weights = load_file(folder / "model.safetensors")
    return _bare(weights), json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _unpacked(model: Any) -> tuple[Weights, dict[str, Any]]:
    weights = {name: value.detach().cpu().float().numpy() for name, value in model.state_dict().items()}
    return _bare(weights), model.config.to_dict()


def _bare(weights: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Without the prefix under which a model with a head keeps its encoder."""
    return {name.removeprefix("bert."): np.asarray(value, dtype=np.float32) for name, value in weights.items()}


def _pair(head: Any) -> Head | None:
    if head is None:
        return None
    if not isinstance(head, tuple):
        weight = head.weight.detach().cpu().float().numpy()
        head = weight, np.zeros(len(weight)) if head.bias is None else head.bias.detach().cpu().float().numpy()
    weight, bias = (np.asarray(each, dtype=np.float32) for each in head)
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ConfigurationError(f"a head has shapes (dim, width) and (dim,), got {weight.shape} and {bias.shape}")
    return weight, bias


def _check(config: Mapping[str, Any], layers: Sequence[int], head: Head | None, positions: int) -> None:
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ConfigurationError(f"only models with {key} {value!r} are supported, got {config[key]!r}")
    most = config["num_hidden_layers"]
    if not layers or len(set(layers)) < len(layers) or not all(0 <= layer <= most for layer in layers):
        raise ConfigurationError(f"layers must be different ones from 0 to {most}, got {list(layers)}")
    if not 2 <= positions <= config["max_position_embeddings"]:
        raise ConfigurationError(
            f"head_tokens + tail_tokens must be from 2 to {config['max_position_embeddings']}, got {positions}"
        )
    width = len(layers) * config["hidden_size"]
    if head is not None and head[0].shape[1] != width:
        raise ConfigurationError(f"the head takes vectors of width {head[0].shape[1]}, but the layers give {width}")


def graph(
    weights: Weights,
    config: Mapping[str, Any],
    *,
    layers: Sequence[int],
    normalise: bool = True,
    head: Head | None = None,
    positions: int = 160,
    bits: int = 8,
) -> bytes:
    """The encoder as a serialised ONNX model, from token ids and mask to one vector a row.

    Args:
        weights: As `BertModel` names them.
        config: As its config.json.
        layers: See `export_encoder`.
        normalise: See `export_encoder`.
        head: Weights, shape (dim, width), and bias, shape (dim,).
        positions: How many tokens a row may have.
        bits: 8, or 32 for a graph in float32 to compare with.

    Raises:
        ConfigurationError: See `export_encoder`.
    """
    from onnx import TensorProto, checker, helper

    _check(config, layers, head, positions)
    draw = _Drawing(quantised=bits == 8)
    heads, width = config["num_attention_heads"], config["hidden_size"]
    op, numbers = draw.op, draw.numbers

    def dense(x: str, name: str) -> str:
        return draw.linear(x, name, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: str, name: str) -> str:
        scale, bias = (draw.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return op("LayerNormalization", x, scale, bias, axis=-1, epsilon=config["layer_norm_eps"])

    def by_head(x: str, order: list[int]) -> str:
        return op("Transpose", op("Reshape", x, numbers(0, 0, heads, width // heads)), perm=order)

    def queries_keys_values(x: str, name: str) -> list[str]:
        """One product for all three; the queries' factor of the attention is put into their weights."""
        parts = [
            (weights[f"{name}.{part}.weight"] * factor, weights[f"{name}.{part}.bias"] * factor)
            for part, factor in (("query", (width // heads) ** -0.5), ("key", 1.0), ("value", 1.0))
        ]
        together = draw.linear(x, f"{name}.qkv", *(np.concatenate(each) for each in zip(*parts, strict=True)))
        return draw.several(3, "Split", together, axis=-1, num_outputs=3)

    placed = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    length = op("Gather", op("Shape", "input_ids"), numbers(1), axis=0)
    place = op("Slice", draw.constant("positions", placed[:positions]), numbers(0), length, numbers(0))
    words = draw.look_up("input_ids", weights["embeddings.word_embeddings.weight"])
    x = norm(op("Add", words, place), "embeddings.LayerNorm")

    mask = op("Cast", "attention_mask", to=TensorProto.FLOAT)
    unseen = op("Mul", op("Sub", op("Unsqueeze", mask, numbers(1, 2)), draw.scalar(1.0)), draw.scalar(1e4))
    of_token = op("Unsqueeze", mask, numbers(2))
    count = op("ReduceSum", of_token, numbers(1), keepdims=0)

    means: dict[int, str] = {}
    for layer in range(max(layers) + 1):
        if layer > 0:
            name = f"encoder.layer.{layer - 1}"
            q, k, v = queries_keys_values(x, f"{name}.attention.self")
            likeness = op("Add", op("MatMul", by_head(q, [0, 2, 1, 3]), by_head(k, [0, 2, 3, 1])), unseen)
            mixed = op("MatMul", op("Softmax", likeness, axis=-1), by_head(v, [0, 2, 1, 3]))
            mixed = op("Reshape", op("Transpose", mixed, perm=[0, 2, 1, 3]), numbers(0, 0, width))
            x = norm(op("Add", dense(mixed, f"{name}.attention.output.dense"), x), f"{name}.attention.output.LayerNorm")
            inner = op("Gelu", dense(x, f"{name}.intermediate.dense"))
            x = norm(op("Add", dense(inner, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")
        if layer in layers:
            total = op("ReduceSum", op("Mul", x, of_token), numbers(1), keepdims=0)
            mean = op("Div", total, count)
            means[layer] = op("LpNormalization", mean, axis=-1, p=2) if normalise else mean
    result = op("Concat", *(means[layer] for layer in layers), axis=-1)
    if head is not None:
        result = op(
            "Gemm", result, draw.constant("head.weight", head[0]), draw.constant("head.bias", head[1]), transB=1
        )
    op("Identity", result, out="embedding")

    dim = len(layers) * width if head is None else len(head[0])
    rows = ["batch", "tokens"]
    model = helper.make_model(
        helper.make_graph(
            draw.nodes,
            "encoder",
            [helper.make_tensor_value_info(name, TensorProto.INT64, rows) for name in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])],
            list(draw.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
    )
    checker.check_model(model)
    written: bytes = model.SerializeToString(deterministic=True)
    return written


class _Drawing:
    """A graph as it is drawn: nodes in order, constants by name."""

    def __init__(self, *, quantised: bool) -> None:
        self.quantised = quantised
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def several(
        self, count: int, kind: str, *inputs: str, out: str = "", domain: str = "", **options: Any
    ) -> list[str]:
        """Add a node; what its outputs are called."""
        from onnx import helper

        number = len(self.nodes)
        outputs = [out or f"{kind.lower()}_{number}_{place}" for place in range(count)]
        node = helper.make_node(kind, list(inputs), outputs, name=f"{kind}_{number}", domain=domain, **options)
        self.nodes.append(node)
        return outputs

    def op(self, kind: str, *inputs: str, out: str = "", domain: str = "", **options: Any) -> str:
        return self.several(1, kind, *inputs, out=out, domain=domain, **options)[0]

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def numbers(self, *values: int) -> str:
        return self.constant("numbers_" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def scalar(self, value: float) -> str:
        return self.constant(f"scalar_{value}", np.array(value, dtype=np.float32))

    def look_up(self, ids: str, table: NDArray[np.float32]) -> str:
        from onnx import TensorProto

        if not self.quantised:
            return self.op("Gather", self.constant("words", table), ids, axis=0)
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True) / np.float32(127), np.float32(SMALLEST))
        rows = self.op("Gather", self.constant("words", np.rint(table / scale).astype(np.int8)), ids, axis=0)
        scales = self.op("Gather", self.constant("words.scale", scale), ids, axis=0)
        return self.op("Mul", self.op("Cast", rows, to=TensorProto.FLOAT), scales)

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """The layer weight x + bias, weight of shape (outputs, inputs)."""
        added = self.constant(f"{name}.bias", bias)
        if not self.quantised:
            return self.op("Add", self.op("MatMul", x, self.constant(f"{name}.weight", weight.T)), added)
        whole, scale = quantised_weights(weight)
        peak = self.op("ReduceMax", self.op("Abs", x), self.numbers(-1), keepdims=1)
        step = self.op("Max", self.op("Mul", peak, self.scalar(1 / 127)), self.scalar(SMALLEST))
        zero = self.constant("zero", np.array(128, dtype=np.uint8))
        short = self.op("QuantizeLinear", self.op("Div", x, step), self.scalar(1.0), zero)
        product = self.op(
            "MatMulIntegerToFloat",
            short,
            self.constant(f"{name}.weight", whole.T),
            self.scalar(1.0),
            self.constant(f"{name}.scale", scale),
            zero,
            domain="com.microsoft",
        )
        return self.op("Add", self.op("Mul", product, step), added)


def quantised_weights(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers, shape (outputs, inputs), and one scale a row: weight is about their product.

    No two neighbours of a row, counted from its beginning in pairs, add up to more than `LARGEST_PAIR` in size.
    """
    size = np.abs(weight)
    pairs = np.pad(size, ((0, 0), (0, size.shape[1] % 2))).reshape(len(size), -1, 2).sum(axis=2)
    # one less: two that are both rounded up, at most half a step each, must not add up to more
    scale = np.maximum(pairs.max(axis=1) / np.float32(LARGEST_PAIR - 1), np.float32(SMALLEST))
    return np.rint(weight / scale[:, np.newaxis]).astype(np.int8), scale


# -- how near, how fast
def measure(folder: Path, model: tuple[Weights, Mapping[str, Any]], texts: Sequence[str], **options: Any) -> None:
    """Print how near the folder's vectors are to those of float32, and what a text costs on one thread."""
    from routellm_core.encoders import OnnxEncoder

    encoder = OnnxEncoder(folder)
    positions = encoder.head_tokens + encoder.tail_tokens
    vectors = encoder.encode(texts)
    print(f"model.onnx: {(folder / 'model.onnx').stat().st_size / 1e6:.2f} MB; vectors of {encoder.dim} numbers")

    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    exact = onnxruntime.InferenceSession(graph(*model, positions=positions, bits=32, **options), settings)
    small = onnxruntime.InferenceSession(str(folder / "model.onnx"), settings)
    expected = [_vector(exact, np.array([row]))[0] for row in encoder.token_ids(list(texts))]
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (vectors * np.array(expected)).sum(axis=1) / lengths
    print(f"cosine to float32, {len(texts)} texts: mean {cosines.mean():.5f}, least {cosines.min():.5f}")
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    print(f"largest difference between a text alone and in a batch: {np.abs(alone - vectors).max():.1e}")

    rng = np.random.default_rng(7)
    for count in sorted({min(16, positions), min(64, positions), positions}):
        ids = rng.integers(0, len(model[0]["embeddings.word_embeddings.weight"]), size=(1, count))
        print(f"{count} tokens: {_ms(small, ids):.2f} ms, in float32 {_ms(exact, ids):.2f} ms")


def _vector(session: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    return found


def _ms(session: Any, ids: NDArray[np.int64]) -> float:
    taken = []  # of the processor, so that what else the machine does counts little
    for _ in range(41):
        begun = time.thread_time()
        _vector(session, ids)
        taken.append(time.thread_time() - begun)
    return 1e3 * float(np.median(taken[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", type=Path, required=True, help="folder with model.safetensors, config.json, tokenizer.json"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the encoder")
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[4, 5, 6], help="whose outputs are averaged; 0: embeddings"
    )
    parser.add_argument("--head-tokens", type=int, default=96, help="kept of a long text's beginning")
    parser.add_argument("--tail-tokens", type=int, default=64, help="kept of its end")
    parser.add_argument("--max-characters", type=int, default=4096, help="to which texts are cut first")
    parser.add_argument("--measure", type=Path, help="file of texts, one a line: compare with float32 and time")
    arguments = parser.parse_args()

    model = read_model(arguments.model)
    export_encoder(
        model,
        arguments.model / "tokenizer.json",
        arguments.out,
        layers=arguments.layers,
        head_tokens=arguments.head_tokens,
        tail_tokens=arguments.tail_tokens,
        max_characters=arguments.max_characters,
    )
    print(f"wrote {arguments.out}")
    if arguments.measure:
        measure(
            arguments.out, model, arguments.measure.read_text(encoding="utf-8").splitlines(), layers=arguments.layers
        )


if __name__ == "__main__":
    main()
