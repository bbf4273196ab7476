"""A console over a real ledger, with everything else in memory: who may what, breakers, models, observations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2

from audit import AuditSettings, AuditUnavailable, LedgerReader, SqliteLedger, new_event_id
from controlplane.calls import Principal, RuleRef
from controlplane.console import (
    ChangeFailed,
    ChangeRefused,
    ConsolePorts,
    ConsoleSettings,
    ModelView,
    NotAllowed,
    NotProven,
    OutcomeLabel,
    Unavailable,
    build,
)

BASE = "http://console.test"
OPERATOR = Principal(subject="user:operator", tenant="acme", kind="user", chain=("agent:helper",))
PEOPLE = {
    "operator-token": OPERATOR,
    "monitor-token": Principal(subject="service:monitor", tenant="acme", kind="service"),
    "globex-token": Principal(subject="user:operator", tenant="globex", kind="user"),
    "boss-token": Principal(subject="user:boss", tenant="acme", kind="user"),
    "deputy-token": Principal(subject="user:deputy", tenant="acme", kind="user"),
    "reader-token": Principal(subject="user:reader", tenant="acme", kind="user"),
    "nobody-token": Principal(subject="user:nobody", tenant="acme", kind="user"),
}
MONITOR_MAY = {
    ("read", "/api/observations"),
    ("read", "/api/models"),
    ("write", "/api/models"),
    ("write", "/api/ledger"),
}


@dataclass
class Breaker:
    name: str
    state: str = "closed"
    reason: str = ""
    holds: tuple[str, ...] = ()
    calls: int = 12
    failed: int = 1
    slow: int = 0
    retry_after_s: float | None = None


@dataclass
class Breakers:
    known: dict[str, Breaker] = field(default_factory=dict)

    def snapshot(self) -> list[Breaker]:
        return [self.known[name] for name in sorted(self.known)]

    def hold(self, name: str, reason: str) -> bool:
        breaker = self.known.setdefault(name, Breaker(name))
        breaker.state, breaker.holds = "held", (*breaker.holds, reason)
        return True

    def release(self, name: str, reason: str) -> bool:
        breaker = self.known.get(name)
        if breaker is None or reason not in breaker.holds:
            return False
        breaker.state, breaker.holds = "half_open", tuple(each for each in breaker.holds if each != reason)
        return True


@dataclass
class Noted:
    event_id: str
    index: int


@dataclass
class Models:
    known: dict[str, ModelView] = field(default_factory=dict)
    asked: list[tuple[str, Mapping[str, Any], Principal]] = field(default_factory=list)
    trouble: Exception | None = None
    done: list[tuple[Any, ...]] = field(default_factory=list)

    def view(self) -> Sequence[ModelView]:
        return list(self.known.values())

    async def move_label(self, model: str, label: str, version: int) -> None:
        if self.trouble is not None:
            raise self.trouble
        if version not in self.known[model].versions:
            raise ChangeRefused("not_available", f"version {version} is not being served")
        labels = {**self.known[model].labels, label: version}
        self.known[model] = replace(self.known[model], labels=labels)

    async def load(self, model: str, version: int) -> None:
        self._do("load", model, version)

    async def unload(self, model: str, version: int) -> None:
        self._do("unload", model, version)

    async def set_canary(self, model: str, version: int | None, percent: int) -> None:
        self._do("canary", model, version, percent)

    async def set_shadow(self, model: str, version: int | None, percent: int) -> None:
        self._do("shadow", model, version, percent)

    def previous(self, model: str) -> int:
        if not self.known[model].previous:
            raise ChangeRefused("no_previous")
        return self.known[model].previous[-1]

    async def roll_back(self, model: str, version: int) -> None:
        self._do("rollback", model, version)

    async def release(self, model: str, version: int, by: Principal, reason: str, key: str) -> Any:
        self._do("release", model, version, by.subject, reason, key)
        return Noted("e1", 7)

    def _do(self, *what: Any) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.done.append(what)

    async def ask(self, model: str, wish: Mapping[str, Any], by: Principal) -> ModelView:
        if self.trouble is not None:
            raise self.trouble
        self.asked.append((model, wish, by))
        self.known[model] = replace(self.known[model], state=str(wish["to"]), state_reason=str(wish["reason"]))
        return self.known[model]


@dataclass
class PolicyStatus:
    revision: str = "3f9a1c" * 10
    loaded_at_s: float | None = 1_763_700_000.0
    rules: int = 23
    error: str = ""
    error_since: float | None = None


class Observations:
    def __init__(self) -> None:
        self.skipped: Mapping[str, Mapping[str, int]] = {}

    def packed(self, after: int, limit: int) -> bytes:
        return f"{after} {limit}".encode()

    def status(self) -> Mapping[str, Any]:
        counts = {"newest": 5, "read": 2, "unread_s": 1.5, "held": 5, "held_bytes": 0}
        return {"boot": "b1", "dropped": {"overwritten": 1}, "skipped": self.skipped, "guarded": {}, **counts}

    def note_skipped(self, said: Mapping[str, Mapping[str, int]]) -> None:
        self.skipped = said

    def page(self, after: int, limit: int) -> Mapping[str, Any]:
        rows = [{"seq": n, "kind": "label"} for n in range(after + 1, min(after + limit, 5) + 1)]
        return {"observations": rows, "next": after + len(rows), "lost": 0, "boot": "b1"}


class World:
    """``rooms`` are further ports by name, as ``costs`` and ``drift``; they are None without."""

    def __init__(
        self,
        ledger: SqliteLedger,
        path: Path,
        settings: ConsoleSettings,
        rooms: Callable[[World], Mapping[str, Any]] = lambda _: {},
    ) -> None:
        self.ledger, self.breakers, self.models = ledger, Breakers(), Models()
        self.policy, self.labels = PolicyStatus(), list[OutcomeLabel]()
        self.asked: list[tuple[str, str, str]] = []
        self.revoked: set[str] = set()
        self.denied: set[tuple[str, str]] = set()  # (action, resource) that policy lets nobody do
        self.is_identity_down = self.is_ledger_down = False
        self.now_s = 0.0
        self.models.known["risk"] = ModelView(
            name="risk", backend="tfs", versions=(1, 2), labels={"stable": 1}, fallback=("risk-baseline",)
        )
        ports = ConsolePorts(
            authorize=self.authorize,
            ledger=LedgerReader(path),
            append=self.append,
            breakers=self.breakers,
            models=self.models,
            policy_status=lambda: self.policy,
            observations=Observations(),
            take_outcomes=self.labels.extend,
            **rooms(self),
        )
        self.app = build(ports, settings, monotonic=lambda: self.now_s)

    async def authorize(self, credential: str, action: str, resource: str) -> Principal:
        self.asked.append((credential, action, resource))
        if self.is_identity_down:
            raise Unavailable("keys_stale", "credentials cannot be verified just now")
        if not credential or credential in self.revoked or credential not in PEOPLE:
            raise NotProven("revoked" if credential in self.revoked else "no_credential", challenge='Bearer x="y"')
        principal = PEOPLE[credential]
        if (action, resource) in self.denied:
            raise NotAllowed("no_matching_rule")
        if principal.subject == "service:monitor" and (action, resource) not in MONITOR_MAY:
            raise NotAllowed("no_matching_rule")
        if principal.subject == "user:reader" and action != "read":
            raise NotAllowed("no_matching_rule")
        if principal.subject == "user:nobody":
            raise NotAllowed("rule_denied", rules=[RuleRef("nobody.nothing", "roles/nobody.yaml:3")])
        return principal

    async def append(self, kind: str, body: Mapping[str, Any]) -> Any:
        if self.is_ledger_down:
            raise AuditUnavailable("disk_full")
        return await self.ledger.append(kind, body)

    async def call(self, *, denied: bool = False, finished: bool = True, **changes: Any) -> str:
        """One call in the ledger, as the gateway writes it; its id."""
        call_id = new_event_id()
        await self.ledger.append(
            "deny" if denied else "intent", intent_body(denied, **changes), event_id=call_id, opens=not denied
        )
        if finished and not denied:
            await self.ledger.append("outcome", {"outcome": OUTCOME_BODY}, closes=call_id)
        return call_id

    def changes(self) -> list[Mapping[str, Any]]:
        return [record.body for record in self.ledger.read(kinds=["console.change", "console.change_failed"])]

    def client(self, token: str = "", **headers: str) -> httpx2.AsyncClient:
        said = {"authorization": f"Bearer {token}"} if token else {}
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url=BASE, headers=said | headers)


OUTCOME_BODY = {
    "status": "ok",
    "http": 200,
    "served_by": "risk/1",
    "rung": "primary",
    "bytes": 321,
    "latency_us": 12_345,
    "tokens": {"in": 7, "out": 9},
}


def intent_body(denied: bool, subject: str = "agent:analyst", tenant: str = "acme", **action: Any) -> dict[str, Any]:
    effect, reason = ("deny", "rule_denied") if denied else ("allow", "allowed")
    rule = {"id": "support.refund.large", "source": "roles/support.yaml:20"}
    return {
        "principal": {
            "subject": subject,
            "type": "agent",
            "tenant": tenant,
            "delegation": [{"agent": "agent:b", "depth": 0}],
        },
        "action": {"kind": "infer", "protocol": "openai.chat", "name": "/model/risk", "operation": "chat"} | action,
        "decision": {
            "effect": effect,
            "reason": reason,
            "policy": {"revision": "3f9a1c" * 10},
            "rules": [rule],
            "obligations": [{"name": "max_tokens", "parameters": {"max": 256}}],
            "eval_us": 210,
        },
    }


@asynccontextmanager
async def world(
    folder: Path, rooms: Callable[[World], Mapping[str, Any]] = lambda _: {}, **changes: Any
) -> AsyncGenerator[World]:
    keys = {"signing_key": folder / "signing.key", "commitment_key": folder / "commitment.key"}
    settings = AuditSettings(path=folder / "ledger.sqlite", stall_limit_s=30, writer="thread", **keys)
    ledger = SqliteLedger(settings)
    await ledger.open()
    try:
        yield World(ledger, settings.path, ConsoleSettings(secure_cookie=False, **changes), rooms)
    finally:
        await ledger.close()
        await asyncio.sleep(0)


FAILED = ChangeFailed("backend_unavailable", "the model server does not answer")
