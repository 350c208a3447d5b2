"""A BERT sentence model as an ONNX graph over the weights that lie in its model.safetensors.

Knows a model's configuration and the names of BERT's weights; must not know a runtime or text. The graph holds no
number of the model: each weight is external data, a span of the file itself, so that what is computed with is what the
journaled hash covers, and nothing is exported, kept beside or trusted besides. Needs the package onnx.

The architecture is that of Devlin et al. 2018 (https://arxiv.org/abs/1810.04805), the names of its weights and the
order of its steps those of the transformers library's BertModel; pooling is sentence-transformers' mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from journal.errors import EnvironmentFault
from replay.model_files import ModelDamaged, read_json

OPSET = 20  # the first with Gelu
_IR_VERSION = 9  # that goes with it
WEIGHTS = "model.safetensors"
IDS, MASK, VECTORS = "input_ids", "attention_mask", "vectors"


class UnsuitableModel(EnvironmentFault):
    """A sound model of a kind that this backend does not compute."""

    code = "unsuitable_model"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"the backend onnx computes BERT models with mean pooling: {reason}",
            path=str(path),
            hint="set embeddings.backend: torch in journal.yaml, and install the extra 'embeddings'",
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """What of config.json, the modules and the tokenizer's settings determines the graph."""

    layers: int
    heads: int
    epsilon: float
    tokens_max: int
    pad_id: int
    normalized: bool


def shape_of(path: Path) -> Shape:
    """Raises UnsuitableModel for a model that is another computation, ModelDamaged for files that say nothing."""
    config = read_json(path / "config.json")
    modules = read_json(path / "modules.json")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    for what, found, wanted in (
        ("model_type", config.get("model_type"), "bert"),
        ("hidden_act", config.get("hidden_act"), "gelu"),
        ("position_embedding_type", config.get("position_embedding_type", "absolute"), "absolute"),
        ("modules", kinds[:2], ["Transformer", "Pooling"]),
    ):
        if found != wanted:
            raise UnsuitableModel(path, f"its {what} is {found!r}, not {wanted!r}")
    if kinds[2:] not in ([], ["Normalize"]):
        raise UnsuitableModel(path, f"it has a module {kinds[-1]}")
    pooling = read_json(path / modules[1]["path"] / "config.json")
    modes = sorted(key for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True)
    if modes != ["pooling_mode_mean_tokens"]:
        raise UnsuitableModel(path, f"it pools by {modes}")
    for name in (WEIGHTS, "tokenizer.json"):
        if not (path / name).is_file():
            raise UnsuitableModel(path, f"it has no {name}")
    settings = path / "sentence_bert_config.json"
    length = read_json(settings).get("max_seq_length") if settings.is_file() else None
    positions = int(config["max_position_embeddings"])
    return Shape(
        layers=int(config["num_hidden_layers"]),
        heads=int(config["num_attention_heads"]),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        tokens_max=min(int(length or positions), positions),
        pad_id=int(config.get("pad_token_id", 0)),
        normalized=kinds[2:] == ["Normalize"],
    )


def graph_of(path: Path, shape: Shape) -> bytes:
    """A serialized ModelProto: int64 `input_ids` and `attention_mask` (texts × tokens) → `vectors` (texts × numbers).

    Its external data is named relative to `path`. Raises UnsuitableModel where a weight is missing or no float32.
    """
    graph = _Graph(path, _tensors(path / WEIGHTS))
    hidden = graph.embedded(shape)
    masked = graph.mask()
    for number in range(shape.layers):
        hidden = graph.layer(hidden, masked, f"encoder.layer.{number}.", shape)
    graph.pool(hidden, normalized=shape.normalized)
    return graph.serialized()


def _tensors(path: Path) -> dict[str, tuple[list[int], int, int]]:
    """Name → shape, offset in the file, bytes; of float32 tensors only."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            return {
                name: (each["shape"], 8 + length + each["data_offsets"][0],
                       each["data_offsets"][1] - each["data_offsets"][0])
                for name, each in header.items()
                if name != "__metadata__" and each["dtype"] == "F32"
            }  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            reason = f"the weights' header cannot be read: {error}"
            raise ModelDamaged(reason, path=str(path), hint="journal recover model") from error


class _Graph:
    """Gathers nodes; each method adds some and returns the name of what they make."""

    def __init__(self, path: Path, tensors: dict[str, tuple[list[int], int, int]]) -> None:
        from onnx import TensorProto, helper

        self._path, self._tensors = path, tensors
        self._prefix = "" if "embeddings.word_embeddings.weight" in tensors else "bert."
        self._proto, self._helper = TensorProto, helper
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}
        self._constants: dict[str, Any] = {}

    def embedded(self, shape: Shape) -> str:
        words = self._add("Gather", self._weight("embeddings.word_embeddings.weight"), IDS)
        count = self._add("Shape", IDS, start=1, end=2)
        places = self._add("Slice", self._weight("embeddings.position_embeddings.weight"), self._whole([0]), count)
        kinds = self._add("Gather", self._weight("embeddings.token_type_embeddings.weight"), self._whole(0))
        summed = self._add("Add", self._add("Add", words, kinds), places)
        return self._normalized(summed, "embeddings.LayerNorm.", shape)

    def mask(self) -> str:
        """0 where a token counts and the least float32 where it is padding, to be added to scores."""
        unset = self._add("Sub", self._number(1.0), self._add("Cast", MASK, to=self._proto.FLOAT))
        away = self._add("Mul", unset, self._number(-3.4028234663852886e38))
        return self._add("Unsqueeze", away, self._whole([1, 2]))

    def layer(self, hidden: str, masked: str, name: str, shape: Shape) -> str:
        width, _, _ = self._spans(f"{name}attention.self.query.bias")
        split = self._whole([0, 0, shape.heads, width[0] // shape.heads])

        def projected(which: str, order: list[int]) -> str:
            made = self._add("Reshape", self._linear(hidden, f"{name}attention.self.{which}."), split)
            return self._add("Transpose", made, perm=order)

        queries, keys = projected("query", [0, 2, 1, 3]), projected("key", [0, 2, 3, 1])
        scale = self._number((width[0] // shape.heads) ** -0.5)
        scores = self._add("Mul", self._add("MatMul", queries, keys), scale)
        weighed = self._add("Softmax", self._add("Add", scores, masked), axis=-1)
        mixed = self._add("MatMul", weighed, projected("value", [0, 2, 1, 3]))
        joined = self._add("Reshape", self._add("Transpose", mixed, perm=[0, 2, 1, 3]), self._whole([0, 0, width[0]]))
        attended = self._add("Add", self._linear(joined, f"{name}attention.output.dense."), hidden)
        attended = self._normalized(attended, f"{name}attention.output.LayerNorm.", shape)
        wide = self._add("Gelu", self._linear(attended, f"{name}intermediate.dense."))
        narrow = self._add("Add", self._linear(wide, f"{name}output.dense."), attended)
        return self._normalized(narrow, f"{name}output.LayerNorm.", shape)

    def pool(self, hidden: str, *, normalized: bool) -> None:
        counts = self._add("Unsqueeze", self._add("Cast", MASK, to=self._proto.FLOAT), self._whole([2]))
        along = self._whole([1])
        total = self._add("ReduceSum", self._add("Mul", hidden, counts), along, keepdims=0)
        mean = self._add("Div", total, self._add("ReduceSum", counts, along, keepdims=0))
        self._add("LpNormalization" if normalized else "Identity", mean, output=VECTORS,
                  **({"axis": 1, "p": 2} if normalized else {}))  # fmt: skip

    def serialized(self) -> bytes:
        helper, tokens = self._helper, ["texts", "tokens"]
        inputs = [helper.make_tensor_value_info(name, self._proto.INT64, tokens) for name in (IDS, MASK)]
        outputs = [helper.make_tensor_value_info(VECTORS, self._proto.FLOAT, ["texts", "numbers"])]
        held = [*self._weights.values(), *self._constants.values()]
        graph = helper.make_graph(self._nodes, "sentences", inputs, outputs, held)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return bytes(model.SerializeToString())

    def _linear(self, value: str, name: str) -> str:
        turned = self._add("Transpose", self._weight(f"{name}weight"), perm=[1, 0])
        return self._add("Add", self._add("MatMul", value, turned), self._weight(f"{name}bias"))

    def _normalized(self, value: str, name: str, shape: Shape) -> str:
        weights = (self._weight(f"{name}weight"), self._weight(f"{name}bias"))
        return self._add("LayerNormalization", value, *weights, axis=-1, epsilon=shape.epsilon)

    def _add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{kind}{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _spans(self, name: str) -> tuple[list[int], int, int]:
        found = self._tensors.get(self._prefix + name)
        if found is None:
            raise UnsuitableModel(self._path, f"its weights hold no float32 {name}")
        return found

    def _weight(self, name: str) -> str:
        if name not in self._weights:
            dimensions, offset, length = self._spans(name)
            tensor = self._proto(
                name=name, data_type=self._proto.FLOAT, dims=dimensions, data_location=self._proto.EXTERNAL
            )
            for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            self._weights[name] = tensor
        return name

    def _whole(self, value: int | list[int]) -> str:
        return self._constant(self._proto.INT64, value)

    def _number(self, value: float) -> str:
        return self._constant(self._proto.FLOAT, value)

    def _constant(self, kind: int, value: Any) -> str:
        name = f"{kind}:{value}"
        values = value if isinstance(value, list) else [value]
        dimensions = [len(value)] if isinstance(value, list) else []
        self._constants.setdefault(name, self._helper.make_tensor(name, kind, dimensions, values))
        return name
