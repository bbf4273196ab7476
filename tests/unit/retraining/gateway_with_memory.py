"""A gateway that remembers: it hands out observations and keeps a ledger of the moves it was asked for."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.ring import ObservationRing
from controlplane.drift.states import Event, Serving, State, line_of, serving_after
from controlplane.monitor import Page
from controlplane.retraining.ports import GatewayUnavailable, Review
from inference.tfserving.predict import encode_predict
from inference.tfserving.tensors import write
from inference.tfserving.wire import PredictResponse


class Killed(BaseException):
    """kill -9: nothing that runs afterwards belongs to the same process."""


def predict_reply(classes: NDArray[np.int64]) -> bytes:
    reply = PredictResponse()
    write(np.eye(2, dtype=np.float32)[classes], reply.outputs["probabilities"])
    return bytes(reply.SerializeToString())


@dataclass
class RememberingGateway:
    """Idempotent by key, as the real one must be; says at once when a move is lost, repeated or out of order."""

    version: int = 1
    state: State = State.LEARNING
    ledger: list[dict[str, Any]] = field(default_factory=list)
    ring: ObservationRing[dict[str, Any]] = field(default_factory=lambda: ObservationRing(1_000_000))
    boot: str = "first"
    kill_before: int | None = None  # ask number at which the monitor dies before it is recorded
    kill_after: int | None = None  # or after it is recorded, before the monitor learns of it
    asks: int = 0
    calls: int = 0
    serving: Serving = Serving.PRIMARY
    canary: tuple[int, int] | None = None  # version, percent
    tried: int | None = None  # the version that gets copies of all calls
    beside: Callable[[int, NDArray[np.float64]], NDArray[np.int64] | str] | None = None
    """What a version makes of a copy of a call, or why it makes nothing. None: what the caller was answered."""
    will_not_load: str = ""  # why the model server refuses a version on trial
    copy_latency_us: int = 1_000
    said: Review | None = None  # what a human said last

    @property
    def serves_fallback(self) -> bool:
        return self.serving is Serving.FALLBACK

    @property
    def tries_canary(self) -> bool:
        """Whether the next call is one of the canary's: of a hundred calls so many as its share."""
        return self.canary is not None and (self.calls * 37) % 100 < self.canary[1]

    def answered(
        self, inputs: NDArray[np.float64], classes: NDArray[np.int64], labels: NDArray[np.int64], principal: str = ""
    ) -> None:
        """One call of the next agent, answered by whoever serves now, with its labels."""
        version, rung = self.version, "lighter" if self.serves_fallback else "primary"
        if self.canary is not None and self.tries_canary:
            version, rung = self.canary[0], "primary"
        self.calls += 1
        call_id = f"call-{self.calls}"
        if self.tried is not None:
            self._copied(call_id, self.tried, inputs, classes)
        self.ring.append(
            {
                "kind": "prediction",
                "call_id": call_id,
                "at_ms": self.calls,
                "model": "risk",
                "version": version,
                "principal": principal or f"agent-{self.calls % 15}",
                "rung": rung,
                "request": base64.b64encode(encode_predict("risk", {"x": inputs.astype(np.float32)})).decode(),
                "reply": base64.b64encode(predict_reply(classes)).decode(),
            }
        )
        for row, label in enumerate(labels.tolist()):
            self.ring.append({"kind": "label", "call_id": call_id, "row": row, "label": label})

    def _copied(self, call_id: str, version: int, inputs: NDArray[np.float64], answered: NDArray[np.int64]) -> None:
        """It may come before the call of which it is a copy."""
        said = answered if self.beside is None else self.beside(version, inputs)
        self.ring.append(
            {
                "kind": "copy",
                "call_id": call_id,
                "at_ms": self.calls,
                "model": "risk",
                "version": version,
                "latency_us": self.copy_latency_us,
                "failed": said if isinstance(said, str) else "",
                "request": base64.b64encode(encode_predict("risk", {"x": inputs.astype(np.float32)})).decode(),
                "reply": "" if isinstance(said, str) else base64.b64encode(predict_reply(said)).decode(),
            }
        )

    async def observations(self, after: int, limit: int) -> Page:
        found, lost = self.ring.after(after, limit)
        return Page([item | {"seq": seq} for seq, item in found], found[-1][0] if found else after, lost, self.boot)

    async def review(self, model: str) -> Review | None:
        assert model == "risk"
        return self.said

    async def ask(self, model: str, move: Mapping[str, Any]) -> None:
        self.asks += 1
        if self.asks == self.kill_before:
            raise Killed
        self._record(model, dict(move))
        if self.asks == self.kill_after:
            raise Killed
        if move["to"] == State.SHADOW and self.will_not_load:
            self.tried = None
            raise GatewayUnavailable("502", self.will_not_load)

    def _record(self, model: str, move: dict[str, Any]) -> None:
        assert model == "risk"
        for known in self.ledger:
            if known["key"] == move["key"]:
                assert known == move, "the same key with other words"
                return
        assert move["from"] == self.state, "a move is missing or repeated"
        line = line_of(State(move["from"]), Event(move["reason"]))
        assert line.target == move["to"]
        assert ("percent" in move) == (line.target is State.CANARY) or line.target is State.SHADOW
        assert move["version"] == self.version
        assert all(isinstance(value, int | str) for value in move["evidence"].values())
        self.ledger.append(move)
        self.state, self.serving = line.target, serving_after(self.serving, line)
        self.canary = (move["new_version"], move["percent"]) if self.state is State.CANARY else None
        self.tried = move["new_version"] if self.state is State.SHADOW and "percent" in move else None
        if self.state is State.PROMOTED:
            self.version = move["new_version"]

    @property
    def path(self) -> list[tuple[str, int, int | None]]:
        return [(move["to"], move["version"], move.get("new_version")) for move in self.ledger]
