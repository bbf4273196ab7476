"""``auto:<task>`` becomes a model before policy decides: who could be permitted, serves this protocol, is healthy and
meets the constraints; then ``inference.selection`` chooses among them. The reason goes into the decision record.

A call that nobody can be chosen for stays what it was, and is denied with the reason (``ChosenOnly``). Whatever breaks
in here denies as well: nothing here raises, and no rule can permit a call to ``auto:`` itself.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from controlplane.calls import Call, Decision, Effect, Principal
from controlplane.gateway.gateway import Admission, DecisionPoint
from controlplane.gateway.observers import Bystander
from controlplane.gateway.outcome import Outcome
from controlplane.policy import Catalogue, ModelEntry, PolicyStatus
from controlplane.telemetry.metrics import Metrics
from inference.selection import Ask, Candidate, ConstraintError, Selected, Selector, Wish, read_wish
from inference.selection.constraints import AUTO
from inference.selection.settings import SelectionSettings
from inference.tfserving import wire

MODEL = "/model/"
AUTO_RESOURCE = MODEL + AUTO
CONSTRAINTS = "x-model-constraints"
BYTES_PER_TOKEN = 4  # of English in most vocabularies; a guess for the price of a call that has not been made
MENUS_KEPT = 4096
TOLD = 16  # candidates that go into the record; the best ones where there are more
REASON = "reason"

log = logging.getLogger(__name__)
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Policy(Protocol):
    """``policy.BundlePolicy``."""

    @property
    def catalogue(self) -> Catalogue: ...
    def could_permit(self, principal: Principal, action: str, resource: str) -> bool: ...
    def status(self) -> PolicyStatus: ...


class NobodyChosen(Exception):
    """``reason`` is a stable word; it becomes the reason of the denial."""

    def __init__(self, reason: str, wish: Wish | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wish = reason, wish


@dataclass(slots=True)
class Menu:
    """The models of one catalogue by task, and for each caller those of them it could be permitted to ask."""

    catalogue: Catalogue | None = None
    revision: str = ""
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    open_to: OrderedDict[tuple[Any, ...], tuple[Candidate, ...]] = field(default_factory=OrderedDict)


class Choice(Bystander):
    """``Gateway.choose``, and an observer of every call.

    ``serves`` says whether a configured server answers for a model in this protocol (True: TF Serving's messages,
    False: JSON). ``is_healthy`` MUST be cheap: it is asked every time.
    """

    def __init__(
        self,
        settings: SelectionSettings,
        selector: Selector,
        policy: Policy,
        *,
        serves: Callable[[str, bool], bool],
        is_healthy: Callable[[str], bool],
        wall_clock: Callable[[], float],
        metrics: Metrics | None = None,
    ) -> None:
        self._settings, self._selector, self._policy = settings, selector, policy
        self._serves, self._is_healthy, self._wall_clock = serves, is_healthy, wall_clock
        self._metrics, self._menu = metrics, Menu()

    def choose(self, principal: Principal, call: Call) -> Call:
        """``Gateway.choose``: the call with a model in it, or as it is with the reason why nobody was chosen."""
        if not call.resource.startswith(AUTO_RESOURCE):
            return call
        try:
            return self._chosen(principal, call)
        except NobodyChosen as nobody:
            return self._refused(call, nobody.reason, nobody.wish)
        except ConstraintError as error:
            return self._refused(call, error.reason, None)
        except Exception as error:  # noqa: BLE001  a defect in here must deny, whatever it is
            log.error("choosing a model broke: %s", type(error).__name__)  # noqa: TRY400  a traceback shows arguments
            return self._refused(call, "auto_defect", None)

    def _chosen(self, principal: Principal, call: Call) -> Call:
        header = next((value for name, value in call.headers if name == CONSTRAINTS), "")
        wish = read_wish(call.resource[len(MODEL) :], header)
        if call.action != "infer" or call.version is not None or call.label:
            raise NobodyChosen("auto_takes_no_version" if call.action == "infer" else "auto_only_infers", wish)
        ask = self._ask(principal, call, wish)
        candidates = self._selector.cleared(ask, self._candidates(principal, call, wish))
        if not candidates:
            raise NobodyChosen("no_model_cleared", wish)
        well = [one for one in candidates if self._is_healthy(one.name)]
        # With nobody healthy the best is asked all the same: its fallback answers, or its breaker says until when not.
        selected = self._selector.choose(ask, well or candidates, self._wall_clock())
        if not selected.model:
            raise NobodyChosen("no_model_meets_constraints", wish)
        if self._metrics:
            self._metrics.observe_selection(model=selected.model, why=selected.why)
        return self._rewritten(call, wish, selected, len(candidates) - len(well))

    def _ask(self, principal: Principal, call: Call, wish: Wish) -> Ask:
        limit = call.arguments.get("max_tokens")
        return Ask(
            tenant=principal.tenant,
            agent=principal.subject,
            task=wish.task,
            constraints=wish.constraints,
            streams=call.streams,
            input_tokens=len(call.body) // BYTES_PER_TOKEN,
            output_tokens=limit if isinstance(limit, int) else self._settings.output_tokens,
        )

    def _rewritten(self, call: Call, wish: Wish, selected: Selected, unhealthy: int) -> Call:
        told = selected.scores if len(selected.scores) <= TOLD else _highest(selected.scores)
        selection: dict[str, Any] = {
            "asked": AUTO + wish.task,
            "constraints": wish.constraints.text,
            "candidates": [{"model": model, "score_ppm": score} for model, score in told],
            "chosen": selected.model,
            "why": selected.why,
            "revision": self._menu.revision,
        }
        if unhealthy:
            selection["unhealthy"] = unhealthy
        arguments = call.arguments
        return replace(
            call,
            resource=MODEL + selected.model,
            body=renamed(call.operation, call.body, selected.model),
            arguments={**arguments, "model": selected.model} if "model" in arguments else arguments,
            headers=tuple(header for header in call.headers if header[0] != CONSTRAINTS),
            selection=selection,
        )

    def _refused(self, call: Call, reason: str, wish: Wish | None) -> Call:
        """Nothing that the caller wrote and we did not understand goes into the ledger."""
        asked = AUTO + wish.task if wish else AUTO
        selection = {"asked": asked, "why": "none", REASON: reason, "revision": self._menu.revision}
        if wish and wish.constraints.text:
            selection["constraints"] = wish.constraints.text
        return replace(call, resource=MODEL + asked, selection=selection)

    # Who may be asked

    def _current(self) -> Menu:
        catalogue = self._policy.catalogue
        if catalogue is not self._menu.catalogue:
            known = {name: candidate_of(entry) for name, entry in catalogue.models.items()}
            self._menu = Menu(catalogue, self._policy.status().revision, known)
            self._selector.evidence.keep_only(frozenset(known))
        return self._menu

    def _candidates(self, principal: Principal, call: Call, wish: Wish) -> tuple[Candidate, ...]:
        """Remembered by token while the catalogue is the same: asking policy of every model takes much longer than all
        the rest. What is remembered decides nothing; policy is asked again about the model that was chosen.
        """
        menu, tensors = self._current(), call.operation in wire.METHODS
        who = (principal.issuer, principal.token_id, principal.subject, principal.tenant, principal.chain)
        key = (who, wish.task, wish.constraints.text, tensors)
        found = menu.open_to.get(key) if principal.token_id else None
        if found is None:
            found = self._look(menu, principal, wish, tensors=tensors)
            menu.open_to[key] = found
            if len(menu.open_to) > MENUS_KEPT:
                menu.open_to.popitem(last=False)
        return found

    def _look(self, menu: Menu, principal: Principal, wish: Wish, *, tensors: bool) -> tuple[Candidate, ...]:
        """Raises ``NobodyChosen`` with the first reason that leaves nobody."""
        left = [one for one in menu.candidates.values() if one.task == wish.task]
        may = self._policy.could_permit
        steps: tuple[tuple[str, Callable[[Candidate], bool]], ...] = (
            ("no_model_of_task", lambda _: True),
            ("no_model_served", lambda one: self._serves(one.name, tensors)),
            ("no_model_permitted", lambda one: may(principal, "infer", MODEL + one.name)),
            ("no_model_meets_constraints", wish.constraints.admits),
        )
        for reason, test in steps:
            left = [one for one in left if test(one)]
            if not left:
                raise NobodyChosen(reason, wish)
        return tuple(left)

    # What is learnt

    def candidate(self, model: str) -> Candidate | None:
        return self._current().candidates.get(model)

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:  # noqa: ARG002  protocol
        """Every answer of a model teaches how long it takes, and so does one that did not come in time."""
        call = admission.call
        if call.action != "infer" or outcome.rung != "primary" or outcome.status not in ("ok", "timeout"):
            return
        model = call.resource.removeprefix(MODEL)
        if model not in self._current().candidates:
            return
        is_first = call.streams and outcome.status == "ok" and outcome.first_byte_s is not None
        until_s = outcome.first_byte_s if is_first and outcome.first_byte_s is not None else outcome.ended_s
        latency_ms = (until_s - outcome.started_s) * 1000
        self._selector.evidence.learn_latency(model, latency_ms, self._wall_clock(), streams=call.streams)


@dataclass(frozen=True, slots=True)
class ChosenOnly:
    """The policy, but a call for which nobody was chosen is denied whatever the rules say."""

    inner: DecisionPoint
    revision: Callable[[], str]

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        if not call.resource.startswith(AUTO_RESOURCE):
            return self.inner.decide(principal, call, now_s)
        reason = str(call.selection.get(REASON, "auto_not_chosen"))
        return Decision(effect=Effect.DENY, reason=reason, revision=self.revision())


def candidate_of(entry: ModelEntry) -> Candidate:
    price = entry.price
    prices = price.input_per_million_usd, price.output_per_million_usd, price.per_call_usd
    return Candidate.of(entry.name, entry.task, entry.card, prices)


def renamed(operation: str, body: bytes, model: str) -> bytes:
    """``body`` asking for ``model``. Raises for a body without a model's name where this protocol has it."""
    method = wire.METHODS.get(operation)
    if method is not None:
        if method.is_nested:
            raise NobodyChosen("auto_names_one_model")
        spec = wire.spec_of(body)
        spec.name = model
        return bytes(wire.with_spec(body, spec))
    fields = _read_fields(body)
    if "model" not in fields:
        raise ValueError("the body names no model")
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def _highest(scores: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(scores, key=lambda one: -one[1])[:TOLD]
