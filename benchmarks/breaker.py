"""What a breaker costs a call, what opens it falsely, and what it lets through; peers in the same run.

    python -m venv .venv-breakers
    .venv-breakers/bin/pip install pydantic interlock-cb==2.8.2 purgatory==3.0.1 aiobreaker==1.2.0 circuitbreaker==2.1.3
    .venv-breakers/bin/python -m benchmarks.breaker

Peers that are not installed are left out. Costs are processor time; contenders take turns and the quietest of all
rounds counts. Everything else is simulated on a clock of our own, with seeds that are written down here.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

from controlplane.resilience.breaker import CircuitBreaker, State, Verdict
from controlplane.resilience.breakers import Breakers, GuardedByVersion
from controlplane.resilience.guarded import GuardedBackend
from controlplane.resilience.settings import BreakerSettings
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendUnavailable
from inference.whole import Whole

CALLS, ROUNDS = 5_000, 15
HOURS, SEED = 20, 7
REQUEST = BackendRequest(call_id="1", target="risk", operation="Predict", version=2)
REPLY = BackendReply(200, (), Whole(b""))
Call = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Calls what it is given, behind a breaker."""


class Broken(Exception):
    """The backend failed."""


class Refused(Exception):
    """Our breaker said no."""


class Bare:
    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:  # noqa: ARG002  a backend
        yield REPLY


async def answered() -> None:
    """The backend of all contenders: there at once."""


def own(open_s: float = 5.0) -> Call:
    breaker, now = CircuitBreaker("m", BreakerSettings(open_s=open_s, jitter_ratio=0)), time.monotonic

    async def call(body: Callable[[], Awaitable[Any]]) -> Any:
        started_s = now()
        permit = breaker.admit(started_s)
        if permit is None:
            raise Refused
        verdict = Verdict.SUCCEEDED
        try:
            return await body()
        except Broken:
            verdict = Verdict.FAILED
            raise
        finally:
            now_s = now()
            breaker.report(permit, verdict, now_s - started_s, now_s)

    return call


def interlock(open_s: float = 5.0) -> Call:
    found, window = importlib.import_module("interlock"), importlib.import_module("interlock.window")
    config = found.Config(
        failure_rate_threshold=0.5,
        minimum_number_of_calls=20,
        slow_call_duration_threshold=0.8,
        slow_call_rate_threshold=0.5,
        window_type=window.WindowType.TIME_BASED,
        window_size=10,
        wait_duration_in_open=open_s,
    )
    breaker = found.CircuitBreaker(name="m", config=config)
    wrapped: dict[Any, Any] = {}

    async def call(body: Callable[[], Awaitable[Any]]) -> Any:
        if body not in wrapped:
            wrapped[body] = breaker(body)
        return await wrapped[body]()

    return call


def purgatory(open_s: float = 5.0) -> Call:
    factory = importlib.import_module("purgatory").AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=open_s)

    async def call(body: Callable[[], Awaitable[Any]]) -> Any:
        async with await factory.get_breaker("m"):
            return await body()

    return call


def aiobreaker(open_s: float = 5.0) -> Call:
    module = importlib.import_module("aiobreaker")
    breaker = module.CircuitBreaker(fail_max=5, timeout_duration=timedelta(seconds=open_s))
    return breaker.call_async  # type: ignore[no-any-return]  # the package has no types


def circuitbreaker(open_s: float = 5.0) -> Call:
    module = importlib.import_module("circuitbreaker")
    breaker = module.CircuitBreaker(failure_threshold=5, recovery_timeout=open_s, name=f"m{random.random()}")
    return breaker.call_async  # type: ignore[no-any-return]  # the package has no types


MADE = {
    "own": own,
    "interlock-cb": interlock,
    "purgatory": purgatory,
    "aiobreaker": aiobreaker,
    "circuitbreaker": circuitbreaker,
}


def installed() -> dict[str, Callable[[float], Call]]:
    found: dict[str, Callable[[float], Call]] = {}
    for name, make in MADE.items():
        try:
            make()
        except ImportError:
            print(f"{name}: not installed")
        else:
            found[name] = make
    return found


# --- what a call costs


async def many(once: Callable[[], Awaitable[Any]]) -> float:
    """Microseconds of processor time for one."""
    began_s = time.process_time()
    for _ in range(CALLS):
        await once()
    return (time.process_time() - began_s) / CALLS * 1e6


def once_through(backend: Any) -> Callable[[], Awaitable[None]]:
    async def once() -> None:
        async with backend.send(REQUEST):
            pass

    return once


def once_behind(call: Call) -> Callable[[], Awaitable[None]]:
    async def once() -> None:
        await call(answered)

    return once


def troubled() -> CircuitBreaker:
    """One failure in its window, as anybody's has now and then."""
    breaker = CircuitBreaker("m", BreakerSettings())
    permit = breaker.admit(time.monotonic())
    assert permit is not None
    breaker.report(permit, Verdict.FAILED, 0.0, time.monotonic())
    return breaker


def decision(breaker: CircuitBreaker) -> Callable[[], Awaitable[None]]:
    async def once() -> None:
        permit = breaker.admit(now())
        assert permit is not None
        breaker.report(permit, Verdict.SUCCEEDED, 0.001, now())

    now = time.monotonic
    return once


async def costs(contenders: dict[str, Callable[[float], Call]]) -> None:
    bare, breakers = Bare(), Breakers(lambda _: BreakerSettings(), time.monotonic)
    guarded = GuardedBackend(bare, CircuitBreaker("m", BreakerSettings()), time.monotonic)
    rows = {
        "nothing": answered,
        "decision (admit and report)": decision(CircuitBreaker("m", BreakerSettings())),
        "decision, a failure in the window": decision(troubled()),
        "backend, bare": once_through(bare),
        "backend, guarded": once_through(guarded),
        "backend, guarded by version": once_through(GuardedByVersion(bare, breakers, time.monotonic)),
    }
    rows |= {f"call behind {name}": once_behind(make(5.0)) for name, make in contenders.items()}
    best = dict.fromkeys(rows, float("inf"))
    for _ in range(ROUNDS):
        for name, once in rows.items():
            best[name] = min(best[name], await many(once))
    print(f"\nCost of one call, µs of processor time (best of {ROUNDS} times {CALLS}, in turn)")
    for name, micro_s in best.items():
        print(f"  {name:36} {micro_s:6.2f}")
    added = best["backend, guarded by version"] - best["backend, bare"]
    print(f"  added to a backend's call by its version's breaker: {added:.2f}")


# --- what opens it falsely


def false_opens(rate_per_s: float, error: float, settings: BreakerSettings) -> float:
    """Times an hour that a backend whose true error rate is below the threshold is given up. Probes see the same."""
    chance, now_s, opened = random.Random(SEED), 0.0, 0.0
    breaker = CircuitBreaker("m", settings, jitter=chance.random)
    while now_s < HOURS * 3600:
        now_s += chance.expovariate(rate_per_s)
        permit = breaker.admit(now_s)
        if permit is None:
            continue
        before = breaker.state
        breaker.report(permit, Verdict.FAILED if chance.random() < error else Verdict.SUCCEEDED, 0.05, now_s)
        opened += before is State.CLOSED and breaker.state is State.OPEN
    return opened / HOURS


def window_table() -> None:
    print(f"\nFalse openings an hour, threshold 50 % of 10 s, Poisson arrivals, {HOURS} simulated hours, seed {SEED}")
    columns = [(f"fixed, ≥ {calls}", BreakerSettings(min_calls=calls, stretch_calls=1)) for calls in (5, 10, 20, 50)]
    columns.append(("stretched, 50", BreakerSettings()))
    columns.append(("stretched, 100", BreakerSettings(stretch_calls=100)))
    print("  calls/s  error  " + "  ".join(f"{name:>14}" for name, _ in columns))
    for rate_per_s, error in ((2, 0.2), (2, 0.3), (2, 0.4), (20, 0.2), (20, 0.3), (20, 0.4)):
        counts = [false_opens(rate_per_s, error, settings) for _, settings in columns]
        print(f"  {rate_per_s:7}  {error:5.0%}  " + "  ".join(f"{count:14.2f}" for count in counts))
    print("\nSeconds until a backend that dies (all calls fail) is given up, median of 101 deaths")
    print("  calls/s  " + "  ".join(f"{name:>14}" for name, _ in columns))
    for pace_per_s in (0.5, 2.0, 20.0):
        waits = [time_to_open(pace_per_s, settings) for _, settings in columns]
        print(f"  {pace_per_s:7}  " + "  ".join(f"{wait:14.1f}" for wait in waits))


def time_to_open(rate_per_s: float, settings: BreakerSettings) -> float:
    """After ten good minutes. ``inf`` when it was not within ten more."""
    waits: list[float] = []
    for seed in range(101):
        chance, now_s, died_s = random.Random(seed), 0.0, 600.0
        breaker = CircuitBreaker("m", settings)
        while breaker.state is State.CLOSED and now_s < 2 * died_s:
            now_s += chance.expovariate(rate_per_s)
            permit = breaker.admit(now_s)
            assert permit is not None
            breaker.report(permit, Verdict.FAILED if now_s >= died_s else Verdict.SUCCEEDED, 0.05, now_s)
        heapq.heappush(waits, now_s - died_s if breaker.state is State.OPEN else float("inf"))
    return heapq.nsmallest(51, waits)[-1]


# --- what it lets through


async def steady_errors(call: Call, rate: float) -> int:
    """How many of 400 calls were not let out though fewer than half fail."""
    chance, out = random.Random(1), 0

    async def body() -> None:
        nonlocal out
        out += 1
        if chance.random() < rate:
            raise Broken

    for _ in range(400):
        with suppress(Exception):
            await call(body)
    return 400 - out


async def herd(make: Callable[[float], Call]) -> int:
    """Callers of 200 at once that reach a backend which failed until a moment ago."""
    call, out = make(1.0), 0

    async def failing() -> None:
        raise Broken

    async def slow() -> None:
        nonlocal out
        out += 1
        await asyncio.sleep(0.2)
        raise Broken

    async def one() -> None:
        with suppress(Exception):
            await call(slow)

    for _ in range(40):
        with suppress(Exception):
            await call(failing)
    await asyncio.sleep(1.2)
    await asyncio.gather(*(one() for _ in range(200)))
    return out


async def shared_herd() -> int:
    """The same with every caller coming through ``GuardedByVersion``."""
    out = 0

    class Slow:
        @asynccontextmanager
        async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:  # noqa: ARG002  a backend
            nonlocal out
            out += 1
            await asyncio.sleep(0.2)
            yield REPLY

    breakers = Breakers(lambda _: BreakerSettings(open_s=0.1, jitter_ratio=0), time.monotonic)
    breaker = breakers.of("risk", 2)
    for _ in range(5):
        permit = breaker.admit(time.monotonic())
        assert permit is not None
        breaker.report(permit, Verdict.UNREACHABLE, 0.0, time.monotonic())
    await asyncio.sleep(0.15)
    guarded = GuardedByVersion(Slow(), breakers, time.monotonic)

    async def one() -> None:
        with suppress(BackendUnavailable):
            async with guarded.send(REQUEST):
                pass

    await asyncio.gather(*(one() for _ in range(200)))
    return out


async def behaviour(contenders: dict[str, Callable[[float], Call]]) -> None:
    print("\nNot let out of 400 calls at a steady error rate; and of 200 callers at once let out by a half-open one")
    print("  contender         20 %   40 %   70 %   herd")
    for name, make in contenders.items():
        refused = [await steady_errors(make(5.0), rate) for rate in (0.2, 0.4, 0.7)]
        cells = "  ".join(f"{count:5}" for count in refused)
        print(f"  {name:16} {cells}  {await herd(make):5}")
    print(f"  own, in a gateway                     {await shared_herd():5}")


async def main() -> None:
    contenders = installed()
    await costs(contenders)
    window_table()
    await behaviour(contenders)


if __name__ == "__main__":
    asyncio.run(main())
