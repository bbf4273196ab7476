"""Building a TensorFlow graph and its signatures, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.tfserving import tensors
from inference.tfserving.schema import message

SavedModel = message("tensorflow.SavedModel")

FLOAT, INT32, STRING = 1, 3, 7
GRAPH_PRODUCER, GRAPH_MIN_CONSUMER = 1286, 12
"""The GraphDef version these nodes are written for (tensorflow/core/public/version.h), and the oldest reader."""


@dataclass(frozen=True, slots=True)
class Type:
    """An attribute that names a dtype; a bare int would be an integer attribute."""

    code: int


@dataclass(frozen=True, slots=True)
class Shape:
    """An attribute that is a shape; -1 is "any"."""

    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A signature's name for a node output: ``node`` is ``name`` or ``name:1``."""

    node: str
    dtype: int
    shape: tuple[int, ...]


Attribute = Type | Shape | bool | int | tensors.Array | Sequence[Type] | Sequence[Shape]


class GraphBuilder:
    def __init__(self) -> None:
        self.saved_model = SavedModel(saved_model_schema_version=1)
        self._meta = self.saved_model.meta_graphs.add()
        self._meta.meta_info_def.tags.append("serve")
        self._meta.meta_info_def.tensorflow_version = "2.21.0"
        self._meta.graph_def.versions.producer = GRAPH_PRODUCER
        self._meta.graph_def.versions.min_consumer = GRAPH_MIN_CONSUMER

    def node(self, op: str, name: str, inputs: Sequence[str] = (), **attributes: Attribute) -> str:
        """Add a node; returns its name, which is what other nodes take as input."""
        node = self._meta.graph_def.node.add(name=name, op=op, input=inputs)
        for key, value in attributes.items():
            _set_attribute(node.attr[key], value)
        return name

    def constant(self, name: str, value: tensors.Array) -> str:
        return self.node("Const", name, dtype=Type(tensors.code_for(value.dtype)), value=value)

    def signature(self, key: str, method: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        definition = self._meta.signature_def[key]
        definition.method_name = f"tensorflow/serving/{method}"
        for side, named in ((definition.inputs, inputs), (definition.outputs, outputs)):
            for alias, tensor in named.items():
                info = side[alias]
                info.name = tensor.node if ":" in tensor.node else f"{tensor.node}:0"
                info.dtype = tensor.dtype
                _set_shape(info.tensor_shape, tensor.shape)

    def serialize(self) -> bytes:
        return bytes(self.saved_model.SerializeToString(deterministic=True))


def _set_attribute(attribute: Any, value: Attribute) -> None:
    match value:
        case Type(code=code):
            attribute.type = code
        case Shape(sizes=sizes):
            _set_shape(attribute.shape, sizes)
        case bool():
            attribute.b = value
        case int():
            attribute.i = value
        case np.ndarray():
            tensors.write(value, attribute.tensor)
        case _:
            attribute.list.SetInParent()
            for item in value:
                if isinstance(item, Type):
                    attribute.list.type.append(item.code)
                else:
                    _set_shape(attribute.list.shape.add(), item.sizes)


def _set_shape(shape: Any, sizes: Sequence[int]) -> None:
    shape.SetInParent()
    for size in sizes:
        shape.dim.add().size = size
