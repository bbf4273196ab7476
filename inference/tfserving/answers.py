"""What the embedded server answers to each request: message in, message out, ``ServingError`` for every refusal.

Codes and words are those of TF Serving 2.21; where TensorFlow's own kernels would complain, the words are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from inference.savedmodel.runtime import Example, GraphError, UnsupportedModel
from inference.tfserving import checks, tensors, wire
from inference.tfserving.checks import CLASSIFY, REGRESS
from inference.tfserving.servables import Code, Runnable, Servables, ServingError, Version
from inference.tfserving.signatures import Signature
from inference.tfserving.tensors import Array

SIGNATURE_MAP_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


def predict(servables: Servables, request: Any) -> Any:
    version = servables.find(request.model_spec)
    key = request.model_spec.signature_name or wire.DEFAULT_SIGNATURE
    signature = checks.signature_for(key, version.signatures)
    checks.check_names(signature, request.inputs, request.output_filter)
    outputs = _run(version.runnable, key, _inputs(signature, request.inputs), list(request.output_filter))
    response = wire.PredictResponse()
    _answered_by(response.model_spec, request.model_spec, version, key)
    for name, array in outputs.items():
        tensors.write(array, response.outputs[name])
    return response


def classify(servables: Servables, request: Any) -> Any:
    response = wire.ClassificationResponse()
    version, key = _over_examples(servables, request.model_spec, CLASSIFY, request.input, response.result)
    _answered_by(response.model_spec, request.model_spec, version, key)
    return response


def regress(servables: Servables, request: Any) -> Any:
    response = wire.RegressionResponse()
    version, key = _over_examples(servables, request.model_spec, REGRESS, request.input, response.result)
    _answered_by(response.model_spec, request.model_spec, version, key)
    return response


def multi_inference(servables: Servables, request: Any) -> Any:
    """Several classifications and regressions of one model over the same examples."""
    checks.check_one_model(request.tasks)
    checks.check_tasks(request.tasks, servables.find(request.tasks[0].model_spec).signatures)
    response = wire.MultiInferenceResponse()
    for task in request.tasks:
        told = response.results.add()
        result = told.classification_result if task.method_name == CLASSIFY else told.regression_result
        version, key = _over_examples(servables, task.model_spec, task.method_name, request.input, result)
        _answered_by(told.model_spec, task.model_spec, version, key)
    return response


def _fill_classes(result: Any, outputs: dict[str, Array]) -> None:
    shape = next(iter(outputs.values())).shape  # a signature may leave out scores or classes, not both
    scores = outputs.get("scores", np.zeros(shape))
    labels = outputs.get("classes", np.broadcast_to(np.array(b"", object), shape))
    for names, values in zip(labels.tolist(), scores.tolist(), strict=True):
        row = result.classifications.add()
        for label, score in zip(names, values, strict=True):
            row.classes.add(label=label.decode(), score=score)


def _fill_values(result: Any, outputs: dict[str, Array]) -> None:
    for value in outputs["outputs"].reshape(-1).tolist():
        result.regressions.add(value=value)


def metadata(servables: Servables, request: Any) -> Any:
    if not request.metadata_field:
        raise ServingError(Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != wire.SIGNATURE_DEF:
            raise ServingError(Code.INVALID_ARGUMENT, f"Metadata field {name} is not supported")
    version = servables.find(request.model_spec)
    response = wire.GetModelMetadataResponse()
    response.model_spec.name, response.model_spec.version.value = request.model_spec.name, version.number
    signatures = wire.SignatureDefMap()
    for key, definition in version.runnable.signatures.items():
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
    "MultiInference": multi_inference,
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
    try:
        return bytes(ANSWERS[method.name](servables, request).SerializeToString())
    except checks.Misfit as misfit:
        raise ServingError(Code[misfit.reason.upper()], misfit.detail) from None


def _answered_by(spec: Any, asked: Any, version: Version, signature: str) -> None:
    spec.name, spec.version.value, spec.signature_name = asked.name, version.number, signature


def _inputs(signature: Signature, protos: Any) -> dict[str, Array]:
    for name, wanted in signature.inputs.items():
        checks.check_head(name, checks.head_of(protos[name]), wanted)
        if tensors.is_inflated(protos[name]):
            said = f"tensor parsing error: {name}: too many values are left out as repetitions of the last one"
            raise ServingError(Code.INVALID_ARGUMENT, said)
    try:
        return tensors.read_all(protos)
    except tensors.TensorError as error:
        raise ServingError(Code.INVALID_ARGUMENT, str(error)) from None


def _over_examples(servables: Servables, spec: Any, method: str, given: Any, result: Any) -> tuple[Version, str]:
    """Run one signature over the examples and fill ``result``; who answered, and by which signature."""
    version = servables.find(spec)
    key = spec.signature_name or wire.DEFAULT_SIGNATURE
    signature = checks.check_examples(key, method, version.signatures)
    examples = [example.SerializeToString() for example in _examples(given)]
    if not examples:
        raise ServingError(Code.INVALID_ARGUMENT, "Input is empty.")
    (alias,) = signature.inputs
    outputs = _run(version.runnable, key, {alias: np.array(examples, object)}, [])
    (_fill_classes if method == CLASSIFY else _fill_values)(result, outputs)
    return version, key


def _examples(given: Any) -> Iterable[Any]:
    if given.WhichOneof("kind") == "example_list_with_context":
        for example in given.example_list_with_context.examples:
            whole = Example()
            whole.CopyFrom(given.example_list_with_context.context)
            whole.MergeFrom(example)  # what the example says itself wins over the context
            yield whole
    else:
        yield from given.example_list.examples


def _run(model: Runnable, signature: str, inputs: dict[str, Array], outputs: list[str]) -> dict[str, Array]:
    try:
        return model.run(signature, inputs, outputs)
    except GraphError as error:
        raise ServingError(Code.INVALID_ARGUMENT, str(error)) from None
    except UnsupportedModel as error:
        raise ServingError(Code.UNIMPLEMENTED, str(error)) from None
