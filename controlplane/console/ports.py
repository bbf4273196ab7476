"""What the console needs of the rest, and how the rest says no.

ConsoleError
├── NotProven       the credential proves nobody
├── NotAllowed      proven, and policy says no
├── NotFound        there is no such thing, or not for you
├── ChangeRefused   the change is not possible as things are; nothing was done
├── ChangeFailed    it was recorded, and the other side would not follow; it may be asked for again
└── Unavailable     it cannot be told or not be recorded now, therefore not done
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from audit import LedgerHead, LedgerReceipt, Record, RecordReader
from controlplane.calls import Principal, RuleRef
from controlplane.console.approval_views import ApprovalControl
from controlplane.console.behaviour_views import BehaviourControl
from controlplane.console.cost_views import CostsView
from controlplane.console.drift_views import DriftView
from controlplane.console.playbook_views import PlaybooksView
from controlplane.console.review_views import ReviewControl


class ConsoleError(Exception):
    """``reason`` is a stable word, ``detail`` a sentence for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason, self.detail = reason, detail or reason


class NotProven(ConsoleError):
    """``challenge`` is the ``WWW-Authenticate`` value to answer with."""

    def __init__(self, reason: str, detail: str = "", *, challenge: str = "Bearer") -> None:
        super().__init__(reason, detail or "no valid credential; sign in or get a new token")
        self.challenge = challenge


class NotAllowed(ConsoleError):
    def __init__(self, reason: str, detail: str = "", *, rules: Sequence[RuleRef] = ()) -> None:
        super().__init__(reason, detail or "policy does not allow this")
        self.rules = tuple(rules)


class NotFound(ConsoleError):
    pass


class ChangeRefused(ConsoleError):
    pass


class ChangeFailed(ConsoleError):
    pass


class Unavailable(ConsoleError):
    pass


Authorize = Callable[[str, str, str], Awaitable[Principal]]
"""(credential, action, resource) → who it is; raises ``NotProven``, ``NotAllowed`` or ``Unavailable``. "" is none."""


class LedgerView(RecordReader, Protocol):
    """``audit.LedgerReader``. Methods block and may be called from any thread."""

    def head(self) -> LedgerHead: ...
    def find(self, event_id: str) -> Record | None: ...
    def outcome_of(self, event_id: str) -> Record | None: ...
    def open_intents(self) -> Mapping[str, int]: ...


Append = Callable[[str, Mapping[str, Any]], Awaitable[LedgerReceipt]]
"""(kind, body) → its receipt, durable on return; raises ``audit.AuditUnavailable``."""


class BreakerView(Protocol):
    """``resilience.breakers.BreakerStatus``."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def holds(self) -> tuple[str, ...]: ...
    @property
    def calls(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def slow(self) -> int: ...
    @property
    def retry_after_s(self) -> float | None: ...


class BreakerControl(Protocol):
    """``resilience.breakers.Breakers``. ``reason`` is the word of whoever holds; False: nothing changed."""

    def snapshot(self) -> Sequence[BreakerView]: ...
    def hold(self, name: str, reason: str) -> bool: ...
    def release(self, name: str, reason: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One model as it is served and watched. ``state`` is its drift state, "" while nobody watches it."""

    name: str
    backend: str = ""
    task: str = ""
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    canary_percent: int = 0
    shadow_version: int | None = None
    shadow_percent: int = 0
    previous: tuple[int, ...] = ()  # what the stable label named before, the newest last
    replicas: Mapping[str, Collection[int]] = field(default_factory=dict)  # name → versions that it serves
    fallback: tuple[str, ...] = ()
    state: str = ""
    state_reason: str = ""
    state_version: int | None = None
    state_since_ms: int | None = None


class ModelControl(Protocol):
    """Every change may be repeated. All raise ``ChangeRefused`` or ``ChangeFailed``."""

    def view(self) -> Sequence[ModelView]: ...

    async def move_label(self, model: str, label: str, version: int) -> None: ...
    async def load(self, model: str, version: int) -> None: ...
    async def unload(self, model: str, version: int) -> None: ...
    async def set_canary(self, model: str, version: int | None, percent: int) -> None: ...
    async def set_shadow(self, model: str, version: int | None, percent: int) -> None: ...

    def previous(self, model: str) -> int:
        """What a rollback would go back to."""
        ...

    async def roll_back(self, model: str, version: int) -> None:
        """Refused when ``version`` is no longer what a rollback would go back to."""
        ...

    async def release(self, model: str, version: int, by: Principal, reason: str, key: str) -> LedgerReceipt:
        """Record that a drift hold is let go, then do it. Raises also ``Unavailable`` or ``audit.AuditUnavailable``."""
        ...

    async def ask(self, model: str, wish: Mapping[str, Any], by: Principal) -> ModelView:
        """Record a drift transition, then carry it out; asked twice with one key, recorded once.

        Raises ``ChangeRefused``, ``ChangeFailed``, ``Unavailable`` or ``audit.AuditUnavailable``.
        """
        ...


class PolicyView(Protocol):
    """``policy.PolicyStatus``."""

    @property
    def revision(self) -> str: ...
    @property
    def loaded_at_s(self) -> float | None: ...
    @property
    def rules(self) -> int: ...
    @property
    def error(self) -> str: ...
    @property
    def error_since(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class OutcomeLabel:
    """Ground truth: row ``row`` of the prediction ``call_id`` was really of class ``label``."""

    call_id: str
    row: int
    label: int


class ObservationsView(Protocol):
    def page(self, after: int, limit: int) -> Mapping[str, Any]: ...
    def packed(self, after: int, limit: int) -> bytes: ...
    def status(self) -> Mapping[str, Any]: ...
    def note_skipped(self, said: Mapping[str, Mapping[str, int]]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntView:
    """A model as the choice sees it for one tenant. Accuracies in millionths; None: nothing is known."""

    task: str
    model: str
    accuracy_ppm: int | None
    reference_ppm: int | None
    answers: int
    latency_ms: float | None
    under_review: bool


class AdapterControl(Protocol):
    """LoRA adapters. What cannot be done raises ``ChangeRefused`` or ``ChangeFailed``."""

    def where(self) -> Mapping[str, Sequence[str]]:
        """The replicas that serve it, by adapter; none for one that is listed and nobody has."""
        ...

    async def load(self, adapter: str) -> None: ...
    async def unload(self, adapter: str) -> None: ...


class SelectionControl(Protocol):
    def view(self, principal: Principal) -> Sequence[LearntView]: ...

    async def clear(self, task: str, model: str, by: Principal, reason: str) -> LedgerReceipt:
        """Recorded, then done. Raises ``NotFound`` or ``audit.AuditUnavailable``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaShown:
    """One server of a backend as calls meet it. None: it does not say."""

    backend: str
    name: str
    models: tuple[str, ...]
    state: str
    reason: str = ""
    in_flight: int = 0
    waiting: int | None = None
    running: int | None = None
    kv_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedShown:
    """A rule that is not at its normal level. ``ends_on`` is the word of a person that ends it, "" for none."""

    rule: str
    subject: str
    action: str
    level: int
    steps: int
    ends_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleShown:
    """A rule of adaptation as policy has it."""

    id: str
    for_each: str
    description: str
    then: str
    steps: int


class AdaptationControl(Protocol):
    """What adapts now, and the rules it goes by."""

    def status(self) -> Sequence[AdaptedShown]: ...
    def rules(self) -> Sequence[RuleShown]: ...

    async def tell(self, rule: str, subject: str, word: str, by: Principal) -> None:
        """A person's word that ends a rule; recorded. Raises ``NotFound`` or ``audit.AuditUnavailable``."""
        ...


def same_tenant(principal: Principal, tenant: str) -> bool:
    return principal.tenant == tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsolePorts:
    """``sees`` says whose calls a principal may look at; by default those of its own tenant alone. ``selection`` may be
    None: then the API says nothing of how models are chosen.
    """

    authorize: Authorize
    ledger: LedgerView
    append: Append
    breakers: BreakerControl
    models: ModelControl
    policy_status: Callable[[], PolicyView]
    observations: ObservationsView
    take_outcomes: Callable[[Sequence[OutcomeLabel]], None]
    sees: Callable[[Principal, str], bool] = same_tenant
    selection: SelectionControl | None = None
    adapters: AdapterControl | None = None
    costs: CostsView | None = None
    reviews: ReviewControl | None = None
    drift: DriftView | None = None
    replicas: Callable[[], Sequence[ReplicaShown]] = list
    adaptation: AdaptationControl | None = None
    behaviour: BehaviourControl | None = None
    playbooks: PlaybooksView | None = None
    approvals: ApprovalControl | None = None
