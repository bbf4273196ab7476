"""What answers for one principal, and how an answer becomes a ruling. Two engines: casbin and the snapshot of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from controlplane.calls import Obligation, Principal, RuleRef
from controlplane.policy.bundle import Bundle
from controlplane.policy.obligations import strictest

GRANTED = "granted"
MAX_RULINGS = 4096

Answer = tuple[str, tuple[str, ...]]
"""The reason, and the ids of the rules that hold, each once: in the bundle's order, but for ``condition_error``, where
the rule whose condition failed comes first and only those before it were asked."""


class Engine(Protocol):
    """MUST keep nothing of a question that changes a later answer; MAY be asked from several threads."""

    @property
    def name(self) -> str:
        """The word for it in settings and status."""

    def answer(
        self, principal: Principal, name: str, action: str, path: str, values: Mapping[str, Any] | None
    ) -> Answer:
        """Whether ``name``, the subject of ``principal`` or an actor of its chain, may take ``action`` on ``path``.

        ``path`` is valid and ``action`` one of ours. ``values`` is the context; None while the call is not known: then
        the question is whether it could be allowed, and doubt speaks for the call.
        """


@dataclass(frozen=True, slots=True)
class Ruling:
    """The rules of a decision, the deciding one first, and its duties merged."""

    rules: tuple[RuleRef, ...]
    obligations: tuple[Obligation, ...]


def ruling_of(bundle: Bundle, reason: str, matched: tuple[str, ...]) -> Ruling:
    permits, found = reason == GRANTED, [bundle.rules[rule] for rule in matched]
    if reason != "condition_error":  # there the rule that failed is first already
        deciding = "allow" if permits else "deny"
        found.sort(key=lambda rule: rule.effect != deciding)
    duties = strictest(duty for rule in found for duty in rule.obligations) if permits else ()
    return Ruling(tuple(rule.ref for rule in found), tuple(_read_only(duty) for duty in duties))


def _read_only(duty: Obligation) -> Obligation:
    return Obligation(duty.name, MappingProxyType(dict(duty.parameters)))


@dataclass(slots=True)
class Rulings:
    """The rulings of one bundle, kept: reason and rules determine them, and the bundle never changes."""

    bundle: Bundle
    _kept: dict[Answer, Ruling] = field(default_factory=dict)

    def of(self, answer: Answer) -> Ruling:
        kept = self._kept.get(answer)
        if kept is None:
            kept = ruling_of(self.bundle, *answer)
            if len(self._kept) >= MAX_RULINGS:  # which conditions hold is the callers' doing
                self._kept.clear()
            self._kept[answer] = kept
        return kept
