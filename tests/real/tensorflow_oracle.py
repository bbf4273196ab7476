"""Runs inside a venv with TensorFlow and the official TF Serving stubs: says what the real parts make of ours.

python tensorflow_oracle.py messages                 official messages against ours, in one process
python tensorflow_oracle.py run DIR X.npy OUT.npz    TensorFlow runs a SavedModel that we wrote
python tensorflow_oracle.py client HOST:PORT         the official client against a server of ours
python tensorflow_oracle.py every_rpc HOST:PORT DIR  the official client calls every RPC; DIR is where versions lie
python tensorflow_oracle.py dtypes HOST:PORT         the official client sends every dtype in both encodings and back
python tensorflow_oracle.py save DIR                 TensorFlow writes a model with variables
python tensorflow_oracle.py save_echo DIR            TensorFlow writes a model that gives back what it gets, by dtype
python tensorflow_oracle.py warmup FILE              TensorFlow reads a warm-up file that we wrote
python tensorflow_oracle.py config FILE              the official message reads a model file that we wrote
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
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
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
    (inference_pb2.MultiInferenceRequest, wire.MultiInferenceRequest),
    (inference_pb2.MultiInferenceResponse, wire.MultiInferenceResponse),
    (prediction_log_pb2.PredictionLog, wire.PredictionLog),
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


DTYPES = {
    "float": "f4",
    "double": "f8",
    "int32": "i4",
    "uint8": "u1",
    "int16": "i2",
    "int8": "i1",
    "string": "O",
    "complex64": "c8",
    "int64": "i8",
    "bool": "?",
    "bfloat16": "bfloat16",
    "uint16": "u2",
    "complex128": "c16",
    "half": "f2",
    "uint32": "u4",
    "uint64": "u8",
}


def sample(name: str) -> Any:
    if name == "string":
        return np.array([[b"a", b"\xff\x00"], [b"", b"bc"]], object)
    dtype = tf.bfloat16.as_numpy_dtype if name == "bfloat16" else np.dtype(DTYPES[name])
    array = np.array([[0, 1], [2, 100]]).astype(dtype)
    return array + 1j * array if name.startswith("complex") else array


def dtypes(target: str) -> dict[str, Any]:
    """Every dtype there and back: as ``tensor_content`` and as values, whole, one element, and none."""
    import grpc  # noqa: PLC0415  only the clients need it

    faults, sent = [], 0
    with grpc.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for name in DTYPES:
            whole = sample(name)
            for array in (whole, whole[:1, :1], whole[:0], whole[1, 1]):
                for encode in (_by_content, _by_values):
                    request = predict_pb2.PredictRequest()
                    request.model_spec.name, request.model_spec.signature_name = "echo", name
                    request.inputs["x"].CopyFrom(encode(array, name))
                    back = tf.make_ndarray(stub.Predict(request, timeout=30).outputs["y"])
                    sent += 1
                    expected = np.asarray(array, whole.dtype)
                    if back.dtype != expected.dtype or not np.array_equal(back, expected):
                        faults.append(f"{name} {encode.__name__} {array!r}: {back!r}")
    return {"sent": sent, "faults": faults}


def _by_content(array: Any, name: str) -> Any:
    proto = tf.make_tensor_proto(array, dtype=tf.as_dtype(name))
    if name != "string":
        empty = type(proto)(dtype=proto.dtype, tensor_shape=proto.tensor_shape)
        empty.tensor_content = np.ascontiguousarray(array).tobytes()
        return empty
    return proto


def _by_values(array: Any, name: str) -> Any:
    from tensorflow.python.framework import tensor_util  # noqa: PLC0415  TensorFlow's own way to fill the value fields

    array = np.asarray(array)
    proto = tf.make_tensor_proto(array, dtype=tf.as_dtype(name))
    values = type(proto)(dtype=proto.dtype, tensor_shape=proto.tensor_shape)
    if name == "string":
        values.string_val.extend(array.ravel().tolist())
    else:
        tensor_util.GetNumpyAppendFn(array.dtype)(values, array.ravel())
    return values


def every_rpc(target: str, base: str) -> dict[str, Any]:
    """The official client and stubs, all seven RPCs, against a server of ours that serves ``risk`` from ``base``."""
    import grpc  # noqa: PLC0415  only the clients need it

    with grpc.insecure_channel(target) as channel:
        serving = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        managing = model_service_pb2_grpc.ModelServiceStub(channel)
        predicted = client(target)
        several = inference_pb2.MultiInferenceRequest(input=_examples())
        for word in ("classify", "regress"):
            task = several.tasks.add(method_name=f"tensorflow/serving/{word}")
            task.model_spec.name, task.model_spec.signature_name = "risk", word
        classify = classification_pb2.ClassificationRequest(input=_examples())
        regress = regression_pb2.RegressionRequest(input=_examples())
        for request, word in ((classify, "classify"), (regress, "regress")):
            request.model_spec.name, request.model_spec.signature_name = "risk", word
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "risk"
        status.model_spec.version.value = 0
        reload = model_management_pb2.ReloadConfigRequest()
        config = reload.config.model_config_list.config.add(name="risk", base_path=base, model_platform="tensorflow")
        config.model_version_policy.specific.versions.append(1)
        config.version_labels["stable"] = 1
        together = serving.MultiInference(several, timeout=30).results
        return {
            "predict": predicted["probabilities"],
            "classify": _classes(serving.Classify(classify, timeout=30).result),
            "regress": [one.value for one in serving.Regress(regress, timeout=30).result.regressions],
            "together": [
                _classes(together[0].classification_result),
                [one.value for one in together[1].regression_result.regressions],
            ],
            "answered_by": [one.model_spec.signature_name for one in together],
            "signatures": predicted["signatures"],
            "status": [
                (one.version, one.state) for one in managing.GetModelStatus(status, timeout=30).model_version_status
            ],
            "reload": managing.HandleReloadConfigRequest(reload, timeout=30).status.error_code,
        }


def _examples() -> Any:
    from tensorflow_serving.apis import input_pb2  # noqa: PLC0415  grouped with its one use

    given = input_pb2.Input()
    for row in ([1, 2, 3, 4], [-1, 0, 1, 0.5]):
        given.example_list.examples.add().MergeFromString(_example(row))
    return given


def _classes(result: Any) -> list[list[tuple[str, float]]]:
    return [[(one.label, one.score) for one in row.classes] for row in result.classifications]


def warmup(file: str) -> dict[str, Any]:
    logs = [prediction_log_pb2.PredictionLog.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(file)]
    inputs = [tf.make_ndarray(log.predict_log.request.inputs["x"]).tolist() for log in logs]
    return {"kinds": [log.WhichOneof("log_type") for log in logs], "inputs": inputs}


def config(file: str) -> dict[str, Any]:
    from google.protobuf import text_format  # noqa: PLC0415  only this mode needs it
    from tensorflow_serving.config import model_server_config_pb2  # noqa: PLC0415  likewise

    read = text_format.Parse(Path(file).read_text("utf-8"), model_server_config_pb2.ModelServerConfig())
    return {one.name: dict(one.version_labels) for one in read.model_config_list.config}


def save_echo(directory: str) -> dict[str, Any]:
    module, signatures = tf.Module(), {}
    for name in DTYPES:
        spec = tf.TensorSpec(None, tf.as_dtype(name), name="x")
        signatures[name] = tf.function(lambda x: {"y": tf.identity(x)}).get_concrete_function(x=spec)
    tf.saved_model.save(module, directory, signatures=signatures)
    return {}


def save(directory: str) -> dict[str, Any]:
    module = tf.Module()
    module.weight = tf.Variable([[1.0], [2.0]])
    serve = tf.function(lambda x: {"y": x @ module.weight}, input_signature=[tf.TensorSpec((None, 2), tf.float32)])
    tf.saved_model.save(module, directory, signatures=serve)
    return {}


MODES = {each.__name__: each for each in (messages, run, client, every_rpc, dtypes, save, save_echo, warmup, config)}

if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    print("answer:" + json.dumps(MODES[mode](*arguments)))  # noqa: T201  the answer to whoever started us
