"""The probe of a TensorFlow Serving.

GetModelStatus is answered by a server's front, so it finds a server that is gone. A warm-up Predict, where there is
one, finds one that no longer computes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from inference.tfserving import wire

Rpc = Callable[[str, bytes, float], Awaitable[bytes]]
"""``TfServingBackend.call``: operation, message, seconds."""

STATUS = "GetModelStatus"
TIMEOUT_S = 60.0  # whoever probes is less patient


class StatusProbe:
    """A ``Probe`` for one server. ``model`` is one that it should know; ``warm_up`` is a serialized PredictRequest."""

    def __init__(self, rpc: Rpc, model: str, warm_up: bytes = b"") -> None:
        self._rpc, self._warm_up = rpc, warm_up
        self._question = wire.GetModelStatusRequest()
        self._question.model_spec.name = model

    async def __call__(self) -> None:
        await self._rpc(STATUS, self._question.SerializeToString(), TIMEOUT_S)
        if self._warm_up:
            await self._rpc("Predict", self._warm_up, TIMEOUT_S)
