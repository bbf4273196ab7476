"""Every metric of the product, brought together from its subjects."""

from __future__ import annotations

from controlplane.telemetry.settings import LabelCaps
from controlplane.telemetry.subjects.backends import BackendMetrics
from controlplane.telemetry.subjects.calls import CallMetrics
from controlplane.telemetry.subjects.choices import ChoiceMetrics
from controlplane.telemetry.subjects.ledger import LedgerMetrics
from controlplane.telemetry.subjects.load import LoadMetrics
from controlplane.telemetry.subjects.loop import LoopMetrics
from controlplane.telemetry.subjects.money import MoneyMetrics
from controlplane.telemetry.subjects.policy import PolicyMetrics


class Metrics(
    CallMetrics, PolicyMetrics, BackendMetrics, MoneyMetrics, LoadMetrics, LedgerMetrics, LoopMetrics, ChoiceMetrics
):
    """The product's metrics on a registry of their own. What rooms tell stands with its subject."""

    def __init__(self, component: str = "gateway", version: str = "0", caps: LabelCaps | None = None) -> None:
        super().__init__(component, version, caps or LabelCaps())
        self._declare_calls()
        self._declare_policy()
        self._declare_backends()
        self._declare_money()
        self._declare_load()
        self._declare_ledger()
        self._declare_loop()
        self._declare_choices()
