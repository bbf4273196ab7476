"""What watching costs: on the call path, and off it. ``python -m benchmarks.watching``, under a minute.

CPU time of one thread, the best of many rounds: the machine may be busy, and what it is busy with is not ours. On the
call path stand the observer of a finished call and, where a model asked for it, the guard of its rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from controlplane.calls import Call, Decision, Effect, Principal, Receipt
from controlplane.drift.guard_settings import GuardSettings
from controlplane.drift.reference import reference_of
from controlplane.drift.signals import text_signals
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.guarding import GuardedRows, RowGuards, VersionGuard
from controlplane.llm_signals import LanguageSignals, signals_of
from controlplane.monitor.packed import decoded
from controlplane.observations import Observations
from controlplane.settings import ObservationSettings
from inference.backend import BackendRequest
from inference.tfserving.predict import encode_predict

ROUNDS, CALLS = 200, 200
COLUMNS = 30
TEXT = "The total of the invoice is in the letter that you have from us, and 240 euros of it are due in March. " * 2
MICRO = 1e6


def best_us(call: Callable[[], Any], calls: int = CALLS, rounds: int = ROUNDS) -> float:
    """CPU microseconds of one call in the quietest round."""
    found = []
    for _ in range(rounds):
        start = time.thread_time_ns()
        for _ in range(calls):
            call()
        found.append((time.thread_time_ns() - start) / calls / 1000)
    return min(found)


def admission(operation: str, body: bytes) -> Admission:
    call = Call(id="c", door="d", action="infer", resource="/model/risk", body=body, operation=operation)
    decision = Decision(effect=Effect.ALLOW, reason="granted", revision="r1")
    receipt = Receipt("01a1ff46-b9ed-7fa6-a96a-b936e3bde856", 0, "")
    return Admission(call, Principal(subject="agent:one", tenant="acme"), decision, receipt, 0, 0)


def outcome(body: bytes) -> Outcome:
    made = Outcome(1.0, status="ok", served_by="risk/2", http_status=200, ended_s=1.01)
    made.saw(body, 1.01)
    return made


def requests(rows: int, count: int = 200) -> list[bytes]:
    chance = np.random.default_rng(rows)
    return [encode_predict("risk", {"x": chance.normal(size=(rows, COLUMNS)).astype(np.float32)}) for _ in range(count)]


def guard() -> VersionGuard:
    names = [f"c{number}" for number in range(COLUMNS)]
    rows = np.random.default_rng(0).normal(size=(20_000, COLUMNS))
    return VersionGuard(reference_of(names, rows, tensor="x"))


def guard_us(rows: int) -> float:
    version, bodies = guard(), requests(rows)

    def look() -> None:
        for body in bodies:
            version.violating(body)

    return best_us(look, calls=1) / len(bodies)


class Nowhere:
    def send(self, request: BackendRequest) -> Any:
        """Nothing behind the guard."""


def layer_us(models: frozenset[str]) -> float:
    """The layer around a model, with its own call taken out."""
    request = BackendRequest(call_id="c", target="risk", operation="Predict", body=requests(1)[0], version=1)
    inner = Nowhere()
    layer = GuardedRows(inner, RowGuards(GuardSettings(models=models)), lambda _: True)
    return best_us(lambda: layer.send(request)) - best_us(lambda: inner.send(request))


def observations() -> Observations:
    return Observations(ObservationSettings(), lambda _: 2)


def predict_us(rows: int) -> float:
    """With a ring that is full, as it is after the first minutes: what is new takes the place of what is old."""
    watching, asked, came = observations(), admission("Predict", requests(rows)[0]), outcome(b"x" * 64)
    for _ in range(ObservationSettings().capacity):
        watching.observe(asked, came, recorded=True)
    return best_us(lambda: watching.observe(asked, came, recorded=True))


def chat(text: str) -> tuple[Admission, Outcome]:
    said = b'{"choices": [{"message": {"content": "%s"}, "finish_reason": "stop"}]}' % text.encode()
    return admission("chat", b'{"messages": [{"role": "user", "content": "hei"}]}'), outcome(said)


def offer_us() -> float:
    watching = observations()
    watching.listener = LanguageSignals(watching, 50, 16_384)
    asked, came = chat(TEXT)
    return best_us(lambda: watching.observe(asked, came, recorded=True))


def page_us() -> tuple[float, float]:
    """Per observation: packing a page, and unpacking it."""
    watching, bodies = observations(), requests(1)
    for number in range(1_000):
        watching.observe(admission("Predict", bodies[number % len(bodies)]), outcome(b"x" * 64), recorded=True)
    packed = watching.packed(0, 1_000)
    write = best_us(lambda: watching.packed(0, 1_000), calls=1, rounds=50) / 1_000
    return write, best_us(lambda: decoded("application/msgpack", packed), calls=1, rounds=50) / 1_000


def plain_page_us() -> float:
    watching, bodies = observations(), requests(1)
    for number in range(1_000):
        watching.observe(admission("Predict", bodies[number % len(bodies)]), outcome(b"x" * 64), recorded=True)
    return best_us(lambda: watching.page(0, 1_000), calls=1, rounds=20) / 1_000


def main() -> None:
    asked, came = chat(TEXT)
    write, read = page_us()
    lines = {
        "call path: a finished prediction is observed": predict_us(1),
        "call path: a finished chat is offered": offer_us(),
        "call path: guard off, the layer mounted": layer_us(frozenset()),
        f"call path: guard on, {COLUMNS} columns, 1 row": guard_us(1),
        f"call path: guard on, {COLUMNS} columns, 50 rows": guard_us(50),
        "off path: a prediction into a packed page": write,
        "off path: a prediction into a page for people": plain_page_us(),
        "monitor: a prediction out of a packed page": read,
        f"off path: counts of a text of {len(TEXT)} characters": best_us(lambda: text_signals(TEXT), 50),
        "off path: all signals of that chat": best_us(lambda: signals_of(asked, came, 16_384), 50),
    }
    for name, value in lines.items():
        print(f"{name:55} {value:8.2f} us")


if __name__ == "__main__":
    main()
