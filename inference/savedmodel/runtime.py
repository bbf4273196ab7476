"""Running a SavedModel's graph with numpy: the ops a tabular network needs, and no others.

A graph is checked when the model is made: an op that is not in ``OPS`` refuses the whole model, because a wrong number
is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference.tfserving import tensors
from inference.tfserving.schema import message
from inference.tfserving.wire import WireError, parse

Example = message("tensorflow.Example")
Array = tensors.Array


class UnsupportedModel(Exception):
    """The graph needs something that only TensorFlow has."""


class GraphError(ValueError):
    """These inputs cannot be run through this graph; the message is for the caller."""


class UnknownSignature(KeyError):
    """The model has no signature of that name."""


def _softmax(_: Any, logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _sigmoid(_: Any, values: Array) -> Array:
    # Two branches, each exact where exp does not overflow.
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small)).astype(values.dtype)


def _matmul(node: Any, left: Array, right: Array) -> Array:
    left = left.T if node.attr["transpose_a"].b else left
    right = right.T if node.attr["transpose_b"].b else right
    return np.asarray(left @ right)


def _argmax(node: Any, values: Array, axis: Array) -> Array:
    code = node.attr["output_type"].type if "output_type" in node.attr else 9
    return np.asarray(np.argmax(values, int(axis)), tensors.dtype_for(code))


def _shape(node: Any, values: Array) -> Array:
    code = node.attr["out_type"].type if "out_type" in node.attr else 3
    return np.array(values.shape, tensors.dtype_for(code))


def _cast(node: Any, values: Array) -> Array:
    return values.astype(tensors.dtype_for(node.attr["DstT"].type))


def _parse_examples(node: Any, *inputs: Array) -> Sequence[Array]:
    """ParseExampleV2 as far as scalar dense features go: one column for each key."""
    if node.attr["num_sparse"].i or node.attr["ragged_value_types"].list.type:
        raise UnsupportedModel("sparse and ragged features need TensorFlow Serving")
    serialized, keys, defaults = inputs[0], inputs[3], inputs[5:]
    features = [_features(raw) for raw in serialized.tolist()]
    return [
        np.array([_scalar(one, key.decode(), default, index) for index, one in enumerate(features)], default.dtype)
        for key, default in zip(keys.tolist(), defaults, strict=True)
    ]


def _features(raw: bytes) -> Mapping[str, Any]:
    try:
        return parse(Example, raw).features.feature  # type: ignore[no-any-return]  # a generated class
    except WireError:
        raise GraphError("Could not parse example input") from None


def _scalar(features: Mapping[str, Any], key: str, default: Array, index: int) -> Any:
    kind = {"f": "float_list", "i": "int64_list", "O": "bytes_list"}[default.dtype.kind]
    if key not in features:
        if default.size:
            return default.item()
        raise GraphError(f"Example {index}: Feature: {key} is required but could not be found.")
    if features[key].WhichOneof("kind") != kind:
        raise GraphError(f"Example {index}: Key: {key}. Data types don't match. Expected type: {kind}")
    values = getattr(features[key], kind).value
    if len(values) != 1:
        raise GraphError(f"Example {index}: Key: {key}. Number of values != expected. Values size: {len(values)}")
    return values[0]


Op = Callable[..., Array | Sequence[Array]]

OPS: dict[str, Op] = {
    "Identity": lambda _, value: value,
    "MatMul": _matmul,
    "Add": lambda _, left, right: left + right,
    "AddV2": lambda _, left, right: left + right,
    "BiasAdd": lambda _, left, right: left + right,
    "Sub": lambda _, left, right: left - right,
    "Mul": lambda _, left, right: left * right,
    "RealDiv": lambda _, left, right: left / right,
    "Relu": lambda _, value: np.maximum(value, 0),
    "Tanh": lambda _, value: np.tanh(value),
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "ArgMax": _argmax,
    "Cast": _cast,
    "Shape": _shape,
    "Reshape": lambda _, value, shape: value.reshape(shape),
    "BroadcastTo": lambda _, value, shape: np.broadcast_to(value, shape),
    "Pack": lambda node, *values: np.stack(values, axis=node.attr["axis"].i),
    "ParseExampleV2": _parse_examples,
}
SOURCES = frozenset({"Placeholder", "Const", "NoOp"})


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded graph. Stateless between runs, so one instance may serve any number of callers."""

    signatures: Mapping[str, Any]  # name → tensorflow.SignatureDef
    nodes: Mapping[str, Any]  # name → tensorflow.NodeDef
    constants: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, meta_graph: Any) -> Model:
        """Raises ``UnsupportedModel``, naming every op that is missing here."""
        nodes = {node.name: node for node in meta_graph.graph_def.node}
        missing = sorted({node.op for node in nodes.values()} - OPS.keys() - SOURCES)
        if missing:
            raise UnsupportedModel(
                f"ops {', '.join(missing)} are not in the embedded runtime; serve this model with TensorFlow Serving"
            )
        constants = {n.name: tensors.read(n.attr["value"].tensor) for n in nodes.values() if n.op == "Const"}
        public = {key: value for key, value in meta_graph.signature_def.items() if not key.startswith("__")}
        return cls(public, nodes, constants)

    def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """The named outputs (all when none is named), shapes as the signature says.

        Raises:
            UnknownSignature: there is no such signature.
            GraphError: the inputs do not fit; names, dtypes and shapes are the caller's to check first.
        """
        if signature not in self.signatures:
            raise UnknownSignature(signature)
        definition = self.signatures[signature]
        known: dict[str, Array | Sequence[Array]] = dict(self.constants)
        for alias, info in definition.inputs.items():
            known[info.name.partition(":")[0]] = inputs[alias]
        try:
            with np.errstate(all="ignore"):  # TensorFlow lets NaN and Inf flow through as well
                return {
                    alias: self._value(definition.outputs[alias].name, known) for alias in outputs or definition.outputs
                }
        except (ValueError, IndexError, TypeError, RecursionError) as error:
            raise GraphError(str(error)) from error

    def _value(self, reference: str, known: dict[str, Array | Sequence[Array]]) -> Array:
        """The tensor ``node`` or ``node:index``, computing what it needs; ``known`` remembers."""
        name, _, index = reference.partition(":")
        if name not in known:
            node = self.nodes.get(name)
            if node is None or node.op not in OPS:
                raise GraphError(f"nothing feeds {name}")
            needed = [self._value(one, known) for one in node.input if not one.startswith("^")]
            known[name] = OPS[node.op](node, *needed)
        value = known[name]
        return value if isinstance(value, np.ndarray) else value[int(index or 0)]
