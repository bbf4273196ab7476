"""Weights → a SavedModel directory that TensorFlow, TF Serving and our own runtime all load.

Weights are constants in the graph, so there is no ``variables/`` and the model is one file. A version appears whole or
not at all: model servers load a version as soon as they see ``saved_model.pb``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from inference.savedmodel.graph import FLOAT, STRING, GraphBuilder, Shape, Tensor, Type
from inference.savedmodel.publishing import publish
from inference.tfserving import warmup
from inference.tfserving.predict import encode_predict
from inference.tfserving.tensors import Array

Layer = tuple[Array, Array]


def export_mlp(
    directory: Path,
    layers: Sequence[Layer],
    *,
    feature_names: Sequence[str],
    class_names: Sequence[str],
    warmup_rows: Array | None = None,
) -> Path:
    """Write a multi-layer perceptron (ReLU between layers, softmax at the end) to ``directory``; returns it.

    ``layers`` are (weights of shape ``(n_in, n_out)``, bias of shape ``(n_out,)``), first layer first. ``directory``
    is a version directory, named by a positive integer. Scaling of features belongs into the first layer.

    Signatures: ``serving_default`` (Predict: ``x`` float32 ``(-1, n)`` → ``probabilities`` float32 ``(-1, k)``),
    ``classify`` and ``regress`` (Examples with one float per feature name; regress scores the last class).

    A model server answers ``warmup_rows`` (``(n, features)``) before it says that the version is there.

    Raises:
        ValueError: shapes, names or the directory's name do not fit together.
        FileExistsError: that version exists already; versions are never overwritten.
    """
    _check(directory, layers, feature_names, class_names)
    graph = GraphBuilder()
    width, classes = len(feature_names), len(class_names)
    x = graph.node("Placeholder", "x", dtype=Type(FLOAT), shape=Shape((-1, width)))
    probabilities = _perceptron(graph, "", x, layers)
    graph.signature(
        "serving_default",
        "predict",
        {"x": Tensor(x, FLOAT, (-1, width))},
        {"probabilities": Tensor(probabilities, FLOAT, (-1, classes))},
    )
    _example_signatures(graph, layers, feature_names, class_names)
    files = {"saved_model.pb": graph.serialize()}
    if warmup_rows is not None:
        rows = np.asarray(warmup_rows, np.float32)
        files[warmup.FILE] = warmup.warmup_file([encode_predict("", {"x": row[np.newaxis]}) for row in rows])
    return _publish(directory, files)


def _perceptron(graph: GraphBuilder, prefix: str, x: str, layers: Sequence[Layer]) -> str:
    for index, (weights, bias) in enumerate(layers):
        if not prefix:  # the second copy of the graph shares the first one's weights
            graph.constant(f"weights_{index}", np.asarray(weights, np.float32))
            graph.constant(f"bias_{index}", np.asarray(bias, np.float32))
        inputs = [x, f"weights_{index}"]
        x = graph.node(
            "MatMul", f"{prefix}product_{index}", inputs, T=Type(FLOAT), transpose_a=False, transpose_b=False
        )
        x = graph.node("AddV2", f"{prefix}sum_{index}", [x, f"bias_{index}"], T=Type(FLOAT))
        if index < len(layers) - 1:
            x = graph.node("Relu", f"{prefix}relu_{index}", [x], T=Type(FLOAT))
    return graph.node("Softmax", f"{prefix}probabilities", [x], T=Type(FLOAT))


def _example_signatures(
    graph: GraphBuilder, layers: Sequence[Layer], feature_names: Sequence[str], class_names: Sequence[str]
) -> None:
    classes = len(class_names)
    examples = graph.node("Placeholder", "examples", dtype=Type(STRING), shape=Shape((-1,)))
    x = _parse_examples(graph, examples, feature_names)
    scores = _perceptron(graph, "examples/", x, layers)
    names = graph.constant("class_names", np.array([[name.encode() for name in class_names]], object))
    shape = graph.node("Shape", "scores_shape", [scores], T=Type(FLOAT), out_type=Type(3))
    labels = graph.node("BroadcastTo", "classes", [names, shape], T=Type(STRING), Tidx=Type(3))
    last = np.zeros((classes, 1), np.float32)
    last[-1] = 1  # times one and zero is exact, so the regression value is the probability bit for bit
    picked = [scores, graph.constant("last_class", last)]
    value = graph.node("MatMul", "last_score", picked, T=Type(FLOAT), transpose_a=False, transpose_b=False)
    inputs = {"inputs": Tensor(examples, STRING, (-1,))}
    graph.signature(
        "classify",
        "classify",
        inputs,
        {"classes": Tensor(labels, STRING, (-1, classes)), "scores": Tensor(scores, FLOAT, (-1, classes))},
    )
    graph.signature("regress", "regress", inputs, {"outputs": Tensor(value, FLOAT, (-1, 1))})


def _parse_examples(graph: GraphBuilder, examples: str, feature_names: Sequence[str]) -> str:
    """Serialized Examples → float32 ``(-1, n)``; a missing feature is an error, as the empty default says."""
    width = len(feature_names)
    none = graph.constant("none", np.array([], object))
    keys = graph.constant("feature_names", np.array([name.encode() for name in feature_names], object))
    default = graph.constant("no_default", np.array([], np.float32))
    parsed = graph.node(
        "ParseExampleV2",
        "parsed",
        [examples, none, none, keys, none, *([default] * width)],
        Tdense=[Type(FLOAT)] * width,
        num_sparse=0,
        sparse_types=[],
        ragged_value_types=[],
        ragged_split_types=[],
        dense_shapes=[Shape(())] * width,
    )
    columns = [parsed if index == 0 else f"{parsed}:{index}" for index in range(width)]
    return graph.node("Pack", "features", columns, N=width, T=Type(FLOAT), axis=1)


def _check(directory: Path, layers: Sequence[Layer], feature_names: Sequence[str], class_names: Sequence[str]) -> None:
    if not (directory.name.isascii() and directory.name.isdigit() and int(directory.name) > 0):
        raise ValueError(f"a version directory is named by a positive integer, not {directory.name!r}")
    if str(int(directory.name)) != directory.name:
        raise ValueError(f"version {directory.name!r} has leading zeros")
    if not layers or not feature_names or not class_names:
        raise ValueError("a model needs at least one layer, one feature and one class")
    if len(set(feature_names)) != len(feature_names):
        raise ValueError("feature names must be distinct")
    width = len(feature_names)
    for index, (weights, bias) in enumerate(layers):
        rows, columns = np.shape(weights)
        if rows != width or np.shape(bias) != (columns,):
            raise ValueError(f"layer {index}: {width} inputs do not fit {np.shape(weights)} and {np.shape(bias)}")
        width = columns
    if width != len(class_names):
        raise ValueError(f"the last layer has {width} outputs, there are {len(class_names)} class names")


def _publish(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Write beside the target under a name no server reads as a version, then show it."""
    if directory.exists():
        raise FileExistsError(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=directory.parent))
    try:
        for name, content in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        return publish(draft, directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
