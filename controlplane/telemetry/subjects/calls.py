"""What happens to calls."""

from __future__ import annotations

from controlplane.telemetry.buckets import CALL_BUCKETS_S, STEP_BUCKETS_S
from controlplane.telemetry.inventory import Inventory, fails_open


class CallMetrics(Inventory):
    def _declare_calls(self) -> None:
        self._calls = self._counter(
            "calls_total",
            "Calls decided: what was decided and what came of them.",
            *("tenant", "door", "resource_kind", "effect", "outcome"),
        )
        self._call_failures = self._counter(
            "call_failures_total", "Admitted calls that failed, by cause.", "resource_kind", "reason"
        )
        self._call_duration = self._histogram(
            "call_duration_seconds",
            "From the call's admission to the last byte of its reply.",
            *("door", "resource_kind"),
            buckets=CALL_BUCKETS_S,
        )
        self._overhead = self._histogram(
            "gateway_overhead_seconds",
            "Time the gateway adds before a call goes out: decision and durable intent.",
            "door",
            buckets=STEP_BUCKETS_S,
        )
        self._first_token = self._histogram(
            "first_token_seconds",
            "From admission to the first byte of a streamed model reply.",
            "model",
            buckets=CALL_BUCKETS_S,
        )
        self._inflight = self._gauge("calls_inflight", "Admitted calls that have not ended.", "door")
        self._tokens = self._counter(
            "tokens_total", "Tokens as the backend counted them.", "tenant", "model", "direction"
        )
        self._unauthenticated = self._counter(
            "unauthenticated_total", "Requests whose credential proved nobody.", "reason"
        )
        self._unadmitted = self._counter(
            "admission_failures_total",
            "Requests turned away because a part of ours was down, not because of policy.",
            *("door", "reason"),
        )

    @fails_open
    def observe_unauthenticated(self, reason: str) -> None:
        self._unauthenticated.child(reason).inc()

    @fails_open
    def observe_unadmitted(self, *, door: str, reason: str) -> None:
        """A part of ours was down (ledger, identity); neither an allow nor a refusal by policy."""
        self._unadmitted.child(door, reason).inc()

    @fails_open
    def observe_refused(self, *, tenant: str, door: str, resource_kind: str) -> None:
        self._calls.child(tenant, door, resource_kind, "deny", "refused").inc()

    def observe_admitted(self, *, door: str, overhead_s: float | None = None) -> None:
        """The intent is durable. MUST be followed by one ``observe_outcome`` for the same door."""
        try:
            self._inflight[door].inc()
            if overhead_s is not None:
                self._overhead[door].observe(overhead_s)
        except Exception as error:  # noqa: BLE001  see fails_open
            self.broke("metrics", error)

    def observe_outcome(
        self,
        *,
        tenant: str,
        door: str,
        resource_kind: str,
        outcome: str,
        duration_s: float,
        reason: str = "",
        trace_id: str = "",
    ) -> None:
        """An admitted call ended as ``ok``, ``error``, ``timeout`` or ``cancelled``; ``reason`` only for failures.

        ``trace_id`` (32 hex digits) becomes an exemplar: give it only when the trace was kept.
        """
        try:
            self._inflight[door].dec()
            self._calls[tenant, door, resource_kind, "allow", outcome].inc()
            exemplar = {"trace_id": trace_id} if trace_id else None
            self._call_duration[door, resource_kind].observe(duration_s, exemplar)
            if reason:
                self._call_failures.child(resource_kind, reason).inc()
        except Exception as error:  # noqa: BLE001  see fails_open
            self.broke("metrics", error)

    def observe_tokens(
        self, *, tenant: str, model: str, input_tokens: int | None = None, output_tokens: int | None = None
    ) -> None:
        try:
            if input_tokens:
                self._tokens[tenant, model, "input"].inc(input_tokens)
            if output_tokens:
                self._tokens[tenant, model, "output"].inc(output_tokens)
        except Exception as error:  # noqa: BLE001  see fails_open
            self.broke("metrics", error)

    @fails_open
    def observe_first_token(self, *, model: str, duration_s: float) -> None:
        self._first_token.child(model).observe(duration_s)
