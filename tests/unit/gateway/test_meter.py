"""Calls as numbers, read back from the registry that is scraped."""

from __future__ import annotations

import pytest
from msgspec import structs

from controlplane.calls import Receipt
from controlplane.gateway.gateway import Admission
from controlplane.gateway.meter import Meter, kind_of
from controlplane.gateway.outcome import Outcome
from controlplane.telemetry.inventory import PREFIX
from controlplane.telemetry.metrics import Metrics
from inference.backend import Usage
from tests.unit.gateway.conftest import AGENT, ALLOW, DENY, a_call

RECEIPT = Receipt("e1", 0, "")


class Counted(Metrics):
    def total(self, name: str, **labels: str) -> float:
        """The sum over all series with these labels."""
        samples = [s for family in self.registry.collect() for s in family.samples if s.name == PREFIX + name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())


@pytest.fixture
def metrics() -> Counted:
    return Counted("test")


def admission(resource: str = "/model/tiny", *, streams: bool = False) -> Admission:
    return Admission(a_call(resource=resource, streams=streams, door="openai.chat"), AGENT, ALLOW, RECEIPT, 1.0, 1.25)


def outcome(**more: object) -> Outcome:
    return structs.replace(Outcome(started_s=1.0, ended_s=2.0, status="ok", first_byte_s=1.5), **more)  # type: ignore[arg-type]  # any field


@pytest.mark.parametrize(
    ("resource", "kind"), [("/model/tiny", "model"), ("/model", "model"), ("/mcp/time/now", "mcp"), ("/tool/x", "tool")]
)
def test_the_kind_is_the_first_segment(resource: str, kind: str) -> None:
    assert kind_of(resource) == kind


def test_an_allowed_call_is_in_flight_until_its_outcome(metrics: Counted) -> None:
    meter = Meter(metrics)
    meter.admitted(admission())
    assert metrics.total("calls_inflight", door="openai.chat") == 1
    assert metrics.total("policy_decisions_total", effect="allow", reason="granted") == 1
    meter.observe(admission(), outcome(), recorded=True)
    assert metrics.total("calls_inflight", door="openai.chat") == 0
    assert metrics.total("ledger_outcomes_lost_total") == 0


def test_a_refusal_by_a_limit_is_counted_as_one(metrics: Counted) -> None:
    meter = Meter(metrics)
    meter.refused(a_call(), AGENT, DENY, RECEIPT)
    assert metrics.total("rate_limited_total") == 0
    meter.refused(a_call(), AGENT, structs.replace(DENY, reason="rate_limited"), RECEIPT)
    assert metrics.total("rate_limited_total", tenant="acme", limit="model") == 1
    assert metrics.total("policy_decisions_total", effect="deny") == 2


def test_an_outcome_that_was_not_recorded_is_counted(metrics: Counted) -> None:
    meter = Meter(metrics)
    meter.observe(admission(), outcome(), recorded=False)
    assert metrics.total("ledger_outcomes_lost_total") == 1


def test_a_lower_rung_and_tokens_are_told_by_model(metrics: Counted) -> None:
    meter = Meter(metrics)
    meter.observe(admission(streams=True), outcome(rung="lighter", usage=Usage(3, 4)), recorded=True)
    assert metrics.total("fallback_answers_total", model="tiny", rung="lighter") == 1
    assert metrics.total("tokens_total", model="tiny") == 7


def test_a_tool_has_no_tokens_and_no_rung(metrics: Counted) -> None:
    Meter(metrics).observe(admission("/tool/refund"), outcome(rung="cache", usage=Usage(3, 4)), recorded=True)
    assert metrics.total("tokens_total") == metrics.total("fallback_answers_total") == 0


def test_a_backend_that_counts_nonsense_breaks_nothing(metrics: Counted) -> None:
    meter = Meter(metrics)
    meter.observe(admission(), outcome(rung="lighter", usage=Usage(-5, None)), recorded=True)
    assert metrics.total("fallback_answers_total", model="tiny", rung="lighter") == 1


@pytest.mark.parametrize(("rung", "tokens", "fallbacks"), [("primary", 5, 0), ("cached", 0, 0), ("cache", 0, 1)])
def test_a_saved_answer_spends_no_tokens_and_only_a_stale_one_is_a_fallback(
    metrics: Counted, rung: str, tokens: int, fallbacks: int
) -> None:
    Meter(metrics).observe(admission(), outcome(rung=rung, usage=Usage(2, 3)), recorded=True)
    assert metrics.total("tokens_total") == tokens
    assert metrics.total("fallback_answers_total") == fallbacks


def test_cost_and_energy_are_counted_in_dollars_and_joules(metrics: Counted) -> None:
    Meter(metrics).observe(admission(), outcome(cost={"micro_usd": 250_000, "energy_uwh": 1_000}), recorded=True)
    saved = {"micro_usd": 0, "saved_micro_usd": 1_000_000, "estimated": 1}
    Meter(metrics).observe(admission(), outcome(cost=saved, rung="cached"), recorded=True)
    assert metrics.total("cost_usd_total", tenant="acme", model="tiny") == 0.25
    assert metrics.total("cost_saved_usd_total", tenant="acme", model="tiny") == 1.0
    assert metrics.total("energy_joules_total", model="tiny") == pytest.approx(3.6)
    assert metrics.total("telemetry_failures_total") == 0


def test_a_refusal_for_money_is_counted_as_one(metrics: Counted) -> None:
    Meter(metrics).refused(a_call(), AGENT, structs.replace(DENY, reason="budget_exhausted"), RECEIPT)
    assert metrics.total("rate_limited_total", limit="budget") == 1


def test_budgets_and_the_cache_have_their_metrics(metrics: Counted) -> None:
    metrics.observe_budget_use(tenant="globex", budget="tenant/month", ratio=0.95)
    metrics.observe_budget_warning(tenant="globex", budget="tenant/month")
    metrics.observe_response_cache("tiny", "hit")
    metrics.observe_response_cache_bytes(7)
    metrics.observe_shared_cache_failed("late")
    assert metrics.total("budget_used_ratio", tenant="globex", budget="tenant/month") == 0.95
    assert metrics.total("budget_warnings_total") == metrics.total("response_cache_events_total", event="hit") == 1
    assert (metrics.total("response_cache_bytes"), metrics.total("response_cache_shared_failures_total")) == (7, 1)
