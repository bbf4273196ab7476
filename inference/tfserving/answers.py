"""What the embedded server answers to each request: message in, message out, ``ServingError`` for every refusal.

Codes and words are those of TF Serving 2.21; where TensorFlow's own kernels would complain, the words are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from inference.savedmodel.runtime import Example, GraphError, Model, UnsupportedModel
from inference.tfserving import tensors, wire
from inference.tfserving.servables import Code, Servables, ServingError
from inference.tfserving.tensors import Array

PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))
SIGNATURE_MAP_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


def predict(servables: Servables, request: Any) -> Any:
    number, model = servables.find(request.model_spec)
    key = request.model_spec.signature_name or wire.DEFAULT_SIGNATURE
    if key not in model.signatures:
        raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.')
    _check_names(model.signatures[key], request)
    outputs = _run(model, key, _inputs(model.signatures[key], request.inputs), list(request.output_filter))
    response = wire.PredictResponse()
    _answered_by(response, request, number, key)
    for name, array in outputs.items():
        tensors.write(array, response.outputs[name])
    return response


def classify(servables: Servables, request: Any) -> Any:
    number, key, outputs = _over_examples(servables, request, CLASSIFY, "classification")
    response = wire.ClassificationResponse()
    _answered_by(response, request, number, key)
    shape = next(iter(outputs.values())).shape  # a signature may leave out scores or classes, not both
    scores = outputs.get("scores", np.zeros(shape))
    labels = outputs.get("classes", np.broadcast_to(np.array(b"", object), shape))
    for names, values in zip(labels.tolist(), scores.tolist(), strict=True):
        row = response.result.classifications.add()
        for label, score in zip(names, values, strict=True):
            row.classes.add(label=label.decode(), score=score)
    return response


def regress(servables: Servables, request: Any) -> Any:
    number, key, outputs = _over_examples(servables, request, REGRESS, "regression")
    response = wire.RegressionResponse()
    _answered_by(response, request, number, key)
    for value in outputs["outputs"].reshape(-1).tolist():
        response.result.regressions.add(value=value)
    return response


def metadata(servables: Servables, request: Any) -> Any:
    if not request.metadata_field:
        raise ServingError(Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != wire.SIGNATURE_DEF:
            raise ServingError(Code.INVALID_ARGUMENT, f"Metadata field {name} is not supported")
    number, model = servables.find(request.model_spec)
    response = wire.GetModelMetadataResponse()
    response.model_spec.name, response.model_spec.version.value = request.model_spec.name, number
    signatures = wire.SignatureDefMap()
    for key, definition in model.signatures.items():
        signatures.signature_def[key].CopyFrom(definition)
    packed = response.metadata[wire.SIGNATURE_DEF]
    packed.type_url, packed.value = SIGNATURE_MAP_TYPE, signatures.SerializeToString()
    return response


def status(servables: Servables, request: Any) -> Any:
    response = wire.GetModelStatusResponse()
    for version in servables.status(request.model_spec):
        told = response.model_version_status.add(version=version.number, state=int(version.state))
        told.status.error_code = Code.INTERNAL if version.error else Code.OK
        told.status.error_message = version.error
    return response


def reload(servables: Servables, request: Any) -> Any:
    """TF Serving reports a refused configuration inside the answer, not as a failed call."""
    response = wire.ReloadConfigResponse()
    response.status.SetInParent()
    if request.config.WhichOneof("config") != "model_config_list":
        response.status.error_code = Code.INVALID_ARGUMENT
        response.status.error_message = "ServerModelConfig type not supported by HandleReloadConfigRequest."
        return response
    try:
        servables.replace(request.config.model_config_list.config)
    except ServingError as error:
        response.status.error_code, response.status.error_message = error.code, error.detail
    return response


ANSWERS: dict[str, Callable[[Servables, Any], Any]] = {
    "Predict": predict,
    "Classify": classify,
    "Regress": regress,
    "GetModelMetadata": metadata,
    "GetModelStatus": status,
    wire.RELOAD: reload,
}


def answer(servables: Servables, method: wire.Method, body: bytes) -> bytes:
    """Raises ``ServingError``."""
    try:
        request = wire.parse(method.request, body)
    except wire.WireError as error:
        raise ServingError(Code.INVALID_ARGUMENT, str(error)) from None
    return bytes(ANSWERS[method.name](servables, request).SerializeToString())


def _answered_by(response: Any, request: Any, number: int, signature: str) -> None:
    spec = response.model_spec
    spec.name, spec.version.value, spec.signature_name = request.model_spec.name, number, signature


def _check_names(definition: Any, request: Any) -> None:
    sent, wanted = set(request.inputs), set(definition.inputs)
    if sent != wanted:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_set(sent)}) != "
            f"len({_set(wanted)}). Sent extra: {_set(sent - wanted)}. Missing but required: {_set(wanted - sent)}.",
        )
    for name in request.output_filter:
        if name not in definition.outputs:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_set(definition.outputs)}.",
            )


def _inputs(definition: Any, protos: Any) -> dict[str, Array]:
    for name, info in definition.inputs.items():
        sent = protos[name].dtype
        if sent != info.dtype:
            was = tensors.NAMES.get(sent, "invalid")
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Expects arg[{name}] to be {tensors.NAMES.get(info.dtype, 'invalid')} but {was} is provided",
            )
    try:
        arrays = tensors.read_all(protos)
    except tensors.TensorError as error:
        raise ServingError(Code.INVALID_ARGUMENT, str(error)) from None
    for name, array in arrays.items():
        _check_shape(name, array, definition.inputs[name].tensor_shape)
    return arrays


def _check_shape(name: str, array: Array, declared: Any) -> None:
    sizes = [dim.size for dim in declared.dim]
    fits = len(sizes) == array.ndim and all(want in (-1, have) for want, have in zip(sizes, array.shape, strict=True))
    if not (declared.unknown_rank or fits):
        raise ServingError(
            Code.INVALID_ARGUMENT, f"input {name} has shape {list(array.shape)}, the signature says {sizes}"
        )


def _over_examples(servables: Servables, request: Any, method: str, word: str) -> tuple[int, str, dict[str, Array]]:
    number, model = servables.find(request.model_spec)
    key = request.model_spec.signature_name or wire.DEFAULT_SIGNATURE
    if key not in model.signatures:
        raise ServingError(Code.INVALID_ARGUMENT, f"No signature was found with the name: {key}")
    definition = model.signatures[key]
    if definition.method_name != method:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"Expected {word} signature method_name to be {method}. Was: {definition.method_name}",
        )
    examples = [example.SerializeToString() for example in _examples(request.input)]
    if not examples:
        raise ServingError(Code.INVALID_ARGUMENT, "Input is empty.")
    (alias,) = definition.inputs
    return number, key, _run(model, key, {alias: np.array(examples, object)}, [])


def _examples(given: Any) -> Iterable[Any]:
    if given.WhichOneof("kind") == "example_list_with_context":
        for example in given.example_list_with_context.examples:
            whole = Example()
            whole.CopyFrom(given.example_list_with_context.context)
            whole.MergeFrom(example)  # what the example says itself wins over the context
            yield whole
    else:
        yield from given.example_list.examples


def _run(model: Model, signature: str, inputs: dict[str, Array], outputs: list[str]) -> dict[str, Array]:
    try:
        return model.run(signature, inputs, outputs)
    except GraphError as error:
        raise ServingError(Code.INVALID_ARGUMENT, str(error)) from None
    except UnsupportedModel as error:
        raise ServingError(Code.UNIMPLEMENTED, str(error)) from None


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
