"""What we write is a SavedModel, appears whole, and is run or refused, never half run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.savedmodel import SavedModelError, UnsupportedModel, export_mlp, load
from inference.savedmodel.graph import FLOAT, GraphBuilder, Shape, Tensor, Type
from inference.savedmodel.reader import versions
from inference.savedmodel.runtime import Example, GraphError, Model, UnknownSignature

FEATURES, CLASSES = ["age", "income", "debt"], ["low", "mid", "high"]


def _layers() -> list[tuple[Any, Any]]:
    random = np.random.default_rng(7)
    return [(random.normal(size=(3, 5)), random.normal(size=5)), (random.normal(size=(5, 3)), random.normal(size=3))]


def _export(directory: Path) -> Model:
    return load(export_mlp(directory, _layers(), feature_names=FEATURES, class_names=CLASSES))


def _by_hand(x: Any) -> Any:
    (w0, b0), (w1, b1) = _layers()
    logits = np.maximum(x @ w0 + b0, 0) @ w1 + b1
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def _examples(rows: Any) -> Any:
    serialized = []
    for row in rows:
        example = Example()
        for name, value in zip(FEATURES, row, strict=True):
            example.features.feature[name].float_list.value.append(float(value))
        serialized.append(example.SerializeToString())
    return np.array(serialized, object)


def test_exported_model_gives_the_network_s_probabilities(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(10, 3)).astype(np.float32)
    result = _export(tmp_path / "1").run("serving_default", {"x": x})["probabilities"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, _by_hand(x), atol=1e-6)


def test_extreme_logits_do_not_overflow(tmp_path: Path) -> None:
    x = np.full((1, 3), 1e30, np.float32)
    assert _export(tmp_path / "1").run("serving_default", {"x": x})["probabilities"].sum() == pytest.approx(1)


def test_classify_and_regress_agree_with_predict(tmp_path: Path) -> None:
    model = _export(tmp_path / "1")
    x = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    expected = model.run("serving_default", {"x": x})["probabilities"]
    classified = model.run("classify", {"inputs": _examples(x)})
    np.testing.assert_array_equal(classified["scores"], expected)
    assert classified["classes"].tolist() == [[b"low", b"mid", b"high"]] * 4
    regressed = model.run("regress", {"inputs": _examples(x)})["outputs"]
    np.testing.assert_array_equal(regressed[:, 0], expected[:, 2])


def test_an_example_without_a_feature_or_with_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    model = _export(tmp_path / "1")
    with pytest.raises(GraphError, match="Feature: age is required"):
        model.run("classify", {"inputs": np.array([b""], object)})
    wrong = Example()
    wrong.features.feature["age"].int64_list.value.append(3)
    with pytest.raises(GraphError, match="Data types don't match"):
        model.run("classify", {"inputs": np.array([wrong.SerializeToString()], object)})
    with pytest.raises(GraphError, match="Could not parse example"):
        model.run("classify", {"inputs": np.array([b"\xff\xff"], object)})


def test_a_feature_with_two_values_is_refused(tmp_path: Path) -> None:
    example = Example()
    example.features.feature["age"].float_list.value.extend([1, 2])
    with pytest.raises(GraphError, match="Values size: 2"):
        _export(tmp_path / "1").run("classify", {"inputs": np.array([example.SerializeToString()], object)})


def test_a_version_appears_whole_and_leaves_no_draft(tmp_path: Path) -> None:
    _export(tmp_path / "risk" / "1")
    assert [path.name for path in (tmp_path / "risk").iterdir()] == ["1"]
    assert [path.name for path in (tmp_path / "risk" / "1").iterdir()] == ["saved_model.pb"]


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", disk_full)
    with pytest.raises(OSError, match="No space"):
        _export(tmp_path / "risk" / "1")
    assert list((tmp_path / "risk").iterdir()) == []


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    _export(tmp_path / "1")
    with pytest.raises(FileExistsError):
        _export(tmp_path / "1")


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    _export(tmp_path / "1")
    _export(tmp_path / "2")
    assert (tmp_path / "1" / "saved_model.pb").read_bytes() == (tmp_path / "2" / "saved_model.pb").read_bytes()


@pytest.mark.parametrize("name", ["0", "-1", "v1", "01", "1.5", "٣"])
def test_a_version_directory_is_a_positive_integer(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"positive integer|leading zeros"):
        _export(tmp_path / name)


@pytest.mark.parametrize(
    ("features", "classes"), [(["a"], CLASSES), (FEATURES, ["low"]), (["a", "a", "b"], CLASSES), ([], CLASSES)]
)
def test_shapes_and_names_must_fit(tmp_path: Path, features: list[str], classes: list[str]) -> None:
    with pytest.raises(ValueError):
        export_mlp(tmp_path / "1", _layers(), feature_names=features, class_names=classes)
    assert list(tmp_path.iterdir()) == []


def test_only_complete_versions_are_versions(tmp_path: Path) -> None:
    for name in ("10", "2"):
        _export(tmp_path / name)
    (tmp_path / "3").mkdir()
    (tmp_path / ".draft-x").mkdir()
    assert versions(tmp_path) == [2, 10]
    assert versions(tmp_path / "nowhere") == []


def test_an_unknown_op_refuses_the_model_and_says_what_to_use(tmp_path: Path) -> None:
    graph = GraphBuilder()
    x = graph.node("Placeholder", "x", dtype=Type(FLOAT), shape=Shape((-1, 2)))
    y = graph.node("LSTMBlockCell", "cell", [x], T=Type(FLOAT))
    graph.signature("serving_default", "predict", {"x": Tensor(x, FLOAT, (-1, 2))}, {"y": Tensor(y, FLOAT, (-1, 2))})
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(graph.serialize())
    with pytest.raises(UnsupportedModel, match=r"LSTMBlockCell.*TensorFlow Serving"):
        load(tmp_path / "1")


@pytest.mark.parametrize("content", [b"\xff\xff", b""], ids=["garbage", "empty"])
def test_a_damaged_model_is_not_loaded(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(SavedModelError):
        load(tmp_path)


def test_a_missing_model_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(SavedModelError):
        load(tmp_path / "9")


def test_an_unknown_signature_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnknownSignature):
        _export(tmp_path / "1").run("nope", {})


def test_shapes_that_do_not_multiply_are_the_caller_s_error(tmp_path: Path) -> None:
    with pytest.raises(GraphError):
        _export(tmp_path / "1").run("serving_default", {"x": np.zeros((1, 9), np.float32)})


def _unary(op: str, value: Any, *more: Any, **attributes: Any) -> Any:
    graph = GraphBuilder()
    x = graph.node("Placeholder", "x")
    y = graph.node(op, "y", [x, *(graph.constant(f"c{i}", one) for i, one in enumerate(more))], **attributes)
    graph.signature("s", "predict", {"x": Tensor(x, FLOAT, ())}, {"y": Tensor(y, FLOAT, ())})
    return Model.of(graph.saved_model.meta_graphs[0]).run("s", {"x": value})["y"]


def test_ops_compute_what_their_names_say() -> None:
    x = np.array([[-1000.0, 0, 2]], np.float32)
    two = np.array(2, np.float32)
    assert _unary("Identity", x).tolist() == x.tolist()
    assert _unary("Sub", x, two).tolist() == [[-1002, -2, 0]]
    assert _unary("Mul", x, two).tolist() == [[-2000, 0, 4]]
    assert _unary("RealDiv", x, two).tolist() == [[-500, 0, 1]]
    assert _unary("Add", x, two).tolist() == _unary("BiasAdd", x, two).tolist() == [[-998, 2, 4]]
    assert _unary("Relu", x).tolist() == [[0, 0, 2]]
    assert _unary("Tanh", x)[0].tolist() == pytest.approx([-1, 0, 0.9640276])
    assert _unary("Sigmoid", x)[0].tolist() == pytest.approx([0, 0.5, 0.8807971])
    assert _unary("Sigmoid", x).dtype == np.float32
    assert _unary("ArgMax", x, np.array(1, np.int32), output_type=Type(3)).dtype == np.int32
    assert _unary("ArgMax", x, np.array(1, np.int32)).tolist() == [2]
    assert _unary("Cast", x, DstT=Type(9)).tolist() == [[-1000, 0, 2]]
    assert _unary("Shape", x).tolist() == [1, 3]
    assert _unary("Reshape", x, np.array([3, 1], np.int32)).shape == (3, 1)
    assert _unary("MatMul", x, x, transpose_a=False, transpose_b=True).tolist() == [[1000004]]
