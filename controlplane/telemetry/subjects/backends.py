"""What happens to backends: breakers, replicas, fallbacks, copies to a shadow."""

from __future__ import annotations

from controlplane.telemetry.inventory import Inventory, fails_open
from controlplane.telemetry.labels import States

CLOSED = "closed"  # the state in which a breaker begins


class BackendMetrics(Inventory):
    def _declare_backends(self) -> None:
        states = self._gauge("breaker_state", "1 for the state a breaker is in.", "upstream", "state")
        self._breaker_state = States(states)
        self._breaker_transitions = self._counter(
            "breaker_transitions_total", "Changes of a breaker's state.", "upstream", "to"
        )
        self._breakers_shared = self._gauge(
            "breakers_shared", "1 while breakers are shared through a store, 0 while it cannot be reached.", "store"
        )
        self._declare_replicas()
        self._fallbacks = self._counter(
            "fallback_answers_total", "Answers that did not come from the first choice.", "model", "rung"
        )
        self._shadow_copies = self._counter(
            "shadow_copies_total", "Copies of predictions for a version on the side.", "model", "outcome"
        )
        self._shadow_rows = self._counter(
            "shadow_rows_total", "Rows of copies, by whether they say what the caller was told.", "model", "verdict"
        )

    def _declare_replicas(self) -> None:
        replica = ("backend", "replica")
        self._replica_ready = self._gauge("replica_ready", "1 while a replica is sent calls.", *replica)
        self._replica_in_flight = self._gauge("replica_in_flight_calls", "Calls that we have at a replica.", *replica)
        self._replica_waiting = self._gauge(
            "replica_waiting_calls", "Calls that wait inside a replica, as it says itself.", *replica
        )
        self._replica_kv = self._gauge(
            "replica_kv_cache_ratio", "How full a replica's KV cache is, as it says itself.", *replica
        )

    @fails_open
    def observe_breaker(self, *, upstream: str, state: str) -> None:
        """The state a breaker is in (``closed``, ``open``, …); before anything is told it counts as closed."""
        if (self._breaker_state.enter(upstream, state) or CLOSED) != state:
            self._breaker_transitions.child(upstream, state).inc()

    @fails_open
    def observe_breakers_shared(self, is_reached: bool) -> None:
        """Whether what other gateways hold is known here. Never told by a gateway that is alone."""
        self._breakers_shared.child("redis").set(is_reached)

    @fails_open
    def observe_replica(
        self, *, backend: str, replica: str, is_ready: bool, in_flight: int, waiting: int | None, kv_ratio: float | None
    ) -> None:
        """``waiting`` and ``kv_ratio`` are None while the replica says nothing of itself; what it said before stays."""
        self._replica_ready.child(backend, replica).set(is_ready)
        self._replica_in_flight.child(backend, replica).set(in_flight)
        if waiting is not None:
            self._replica_waiting.child(backend, replica).set(waiting)
        if kv_ratio is not None:
            self._replica_kv.child(backend, replica).set(kv_ratio)

    @fails_open
    def observe_fallback(self, *, model: str, rung: str) -> None:
        self._fallbacks.child(model, rung).inc()

    @fails_open
    def observe_shadow(self, model: str, outcome: str, rows: int, agreed: int) -> None:
        self._shadow_copies.child(model, outcome).inc()
        if rows:
            self._shadow_rows.child(model, "agreed").inc(agreed)
            self._shadow_rows.child(model, "differed").inc(rows - agreed)
