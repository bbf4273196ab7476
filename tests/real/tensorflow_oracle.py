"""Runs inside a venv with TensorFlow and the official TF Serving stubs: says what the real parts make of ours.

python tensorflow_oracle.py messages                 official messages against ours, in one process
python tensorflow_oracle.py run DIR X.npy OUT.npz    TensorFlow runs a SavedModel that we wrote
python tensorflow_oracle.py client HOST:PORT         the official client against a server of ours
python tensorflow_oracle.py save DIR                 TensorFlow writes a model with variables
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from inference.tfserving import tensors, wire

PAIRS = [
    (predict_pb2.PredictRequest, wire.PredictRequest),
    (predict_pb2.PredictResponse, wire.PredictResponse),
    (classification_pb2.ClassificationRequest, wire.ClassificationRequest),
    (classification_pb2.ClassificationResponse, wire.ClassificationResponse),
    (regression_pb2.RegressionRequest, wire.RegressionRequest),
    (regression_pb2.RegressionResponse, wire.RegressionResponse),
    (get_model_metadata_pb2.GetModelMetadataRequest, wire.GetModelMetadataRequest),
    (get_model_metadata_pb2.GetModelMetadataResponse, wire.GetModelMetadataResponse),
    (get_model_metadata_pb2.SignatureDefMap, wire.SignatureDefMap),
    (get_model_status_pb2.GetModelStatusRequest, wire.GetModelStatusRequest),
    (get_model_status_pb2.GetModelStatusResponse, wire.GetModelStatusResponse),
    (model_management_pb2.ReloadConfigRequest, wire.ReloadConfigRequest),
    (model_management_pb2.ReloadConfigResponse, wire.ReloadConfigResponse),
]


def messages() -> dict[str, Any]:
    """Every field of ours exists there under the same number, type and oneof; every tensor reads the same."""
    seen: set[str] = set()
    faults: list[str] = []
    for official, ours in PAIRS:
        _compare(official.DESCRIPTOR, ours.DESCRIPTOR, seen, faults)
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415  grouped with its one use

    from inference.savedmodel.graph import SavedModel  # noqa: PLC0415

    _compare(saved_model_pb2.SavedModel.DESCRIPTOR, SavedModel.DESCRIPTOR, seen, faults)
    checked = _tensors(faults)
    return {"messages": len(seen), "tensors": checked, "faults": faults}


def _compare(official: Any, ours: Any, seen: set[str], faults: list[str]) -> None:
    if ours.full_name in seen or ours.full_name.startswith("google."):
        return
    seen.add(ours.full_name)
    if official.full_name != ours.full_name:
        faults.append(f"{ours.full_name} is called {official.full_name}")
    for field in ours.fields:
        real = official.fields_by_name.get(field.name)
        if real is None or _shape_of(real) != _shape_of(field):
            faults.append(f"{field.full_name}: {_shape_of(field)} is not {real and _shape_of(real)}")
        elif field.message_type is not None:
            _compare(real.message_type, field.message_type, seen, faults)


def _shape_of(field: Any) -> tuple[Any, ...]:
    kind = "int32" if field.enum_type is not None else field.type  # an enum and an int32 are the same on the wire
    kind = "int32" if kind == field.TYPE_INT32 else kind
    oneof = field.containing_oneof.name if field.containing_oneof is not None else ""
    # TensorInfo.name is in a oneof with encodings that dense tensors do not have.
    return field.number, kind, field.is_repeated, "" if oneof == "encoding" else oneof


def _tensors(faults: list[str]) -> int:
    arrays: list[Any] = [np.array([b"a", b"bc"], object), np.float32(3.5), np.zeros((0, 3), np.float32)]
    arrays += [np.full((2, 2), 7, np.float32)]
    for name in ("f4", "f8", "i4", "u1", "i2", "i1", "i8", "?", "u2", "f2", "u4", "u8", "c8", "c16"):
        arrays += [(np.arange(6).reshape(2, 3) % 3).astype(name), np.array(1, name)]
    for array in arrays:
        official = tf.make_tensor_proto(array)
        theirs = tensors.read(tensors.TensorProto.FromString(official.SerializeToString()))
        back = tf.make_ndarray(type(official).FromString(tensors.write(array).SerializeToString()))
        if not (
            np.array_equal(theirs, array) and np.array_equal(back, array) and back.dtype == np.asarray(array).dtype
        ):
            faults.append(f"{array!r}: {theirs!r} {back!r}")
    short = tf.compat.v1.make_tensor_proto(7.0, shape=[2, 2], dtype=tf.float32)
    wide = tf.make_tensor_proto(np.array([1.5, -2]), dtype=tf.bfloat16)
    for official, expected in ((short, np.full((2, 2), 7)), (wide, np.array([1.5, -2]))):
        theirs = tensors.read(tensors.TensorProto.FromString(official.SerializeToString()))
        if not np.array_equal(theirs, expected):
            faults.append(f"{official}: {theirs!r}")
    return len(arrays) + 2


def run(directory: str, x_file: str, out_file: str) -> dict[str, Any]:
    model, x = tf.saved_model.load(directory), np.load(x_file)
    examples = tf.constant([_example(row) for row in x])
    classified = model.signatures["classify"](inputs=examples)
    np.savez(
        out_file,
        probabilities=model.signatures["serving_default"](x=tf.constant(x))["probabilities"].numpy(),
        scores=classified["scores"].numpy(),
        outputs=model.signatures["regress"](inputs=examples)["outputs"].numpy(),
    )
    return {"classes": [name.decode() for name in classified["classes"].numpy()[0]], "tensorflow": tf.__version__}


def _example(row: Any) -> bytes:
    feature = {
        name: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        for name, value in zip("abcd", row, strict=True)
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def client(target: str) -> dict[str, Any]:
    import grpc  # noqa: PLC0415  only this mode needs it

    with grpc.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "risk"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0, 2.0, 3.0, 4.0]], dtype=tf.float32))
        predicted = stub.Predict(request, timeout=20)
        described = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        described.model_spec.name = "risk"
        signatures = get_model_metadata_pb2.SignatureDefMap()
        stub.GetModelMetadata(described, timeout=20).metadata["signature_def"].Unpack(signatures)
    return {
        "version": predicted.model_spec.version.value,
        "probabilities": tf.make_ndarray(predicted.outputs["probabilities"]).tolist(),
        "signatures": sorted(signatures.signature_def),
    }


def save(directory: str) -> dict[str, Any]:
    module = tf.Module()
    module.weight = tf.Variable([[1.0], [2.0]])
    serve = tf.function(lambda x: {"y": x @ module.weight}, input_signature=[tf.TensorSpec((None, 2), tf.float32)])
    tf.saved_model.save(module, directory, signatures=serve)
    return {}


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    print("answer:" + json.dumps({"messages": messages, "run": run, "client": client, "save": save}[mode](*arguments)))  # noqa: T201  the answer to whoever started us
