"""What a model takes and gives, by signature: asked of the server once for a version, since versions never change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.errors import BackendBroke, BackendRejected
from inference.tfserving import wire
from inference.tfserving.control import ModelServer
from inference.tfserving.deployment import Deployment

FETCH_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """``dtype`` is TensorFlow's code; ``shape`` has -1 for "any", and is None where the rank is unknown."""

    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    method: str  # e.g. "tensorflow/serving/predict"
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


class DeployedSignatures:
    """The signatures of what is deployed. Knows nothing of other models, so strangers cannot make it ask."""

    def __init__(self, deployment: Deployment, timeout_s: float = FETCH_TIMEOUT_S) -> None:
        self._deployment, self._timeout_s = deployment, timeout_s
        self._known: dict[tuple[str, int], Mapping[str, Signature]] = {}

    def known(self, model: str, version: int | None = None, label: str | None = None) -> Mapping[str, Signature] | None:
        """What was learnt of the version that is meant; None when that is not known (yet). Asks nobody."""
        try:
            return self._known.get((model, self._deployment.resolve(model, version, label)))
        except BackendRejected:
            return None

    async def learn(self) -> None:
        """Ask some replica for the signatures of every version that is served, once each. Raises ``BackendError``."""
        deployed = {(model, version) for model, one in self._deployment.models.items() for version in one.versions}
        for model, version in deployed - self._known.keys():
            server = self._deployment.server_with(model, version)
            if server is None:
                continue
            try:
                self._known[model, version] = await self._ask(server, model, version)
            except wire.WireError as error:
                raise BackendBroke("invalid_answer", str(error)) from error

    async def _ask(self, server: ModelServer, model: str, version: int) -> Mapping[str, Signature]:
        request = wire.GetModelMetadataRequest(metadata_field=[wire.SIGNATURE_DEF])
        request.model_spec.name, request.model_spec.version.value = model, version
        answer = await server.call("GetModelMetadata", request.SerializeToString(), self._timeout_s)
        return signatures_in(wire.parse(wire.GetModelMetadataResponse, answer))


def signatures_in(response: Any) -> dict[str, Signature]:
    """Raises ``WireError``."""
    packed = wire.parse(wire.SignatureDefMap, response.metadata[wire.SIGNATURE_DEF].value)
    return {name: signature_of(definition) for name, definition in packed.signature_def.items()}


def signature_of(definition: Any) -> Signature:
    """A ``SignatureDef`` message in our words."""
    return Signature(definition.method_name, _specs(definition.inputs), _specs(definition.outputs))


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            info.dtype,
            None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in tensors.items()
    }
