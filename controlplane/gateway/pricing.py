"""What a call may cost before it goes out, and what it did cost afterwards. Pure; fails open where it only reports.

Counted tokens are billed as counted. Where the backend counted none they are estimated from bytes, and the record says
so. A saved answer costs nothing and says what it saved. A lighter model is billed at its own price.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import msgspec

from controlplane.calls import Call
from controlplane.cost import CostSettings, Rates, Work, energy_uwh
from controlplane.gateway.discharges import CHOICE_FIELDS, TOKEN_FIELDS, prompts_of
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import HTTP_ERROR, Outcome
from controlplane.policy import Catalogue, ModelEntry
from inference.backend import FRESH_RUNGS

log = logging.getLogger(__name__)

MODEL = "/model/"
EVENT = b"data:"
ANSWERS_TOKENS = frozenset(TOKEN_FIELDS)
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Priced(msgspec.Struct, frozen=True):
    """What is billed for one model, and whether that takes its tokens or its time."""

    entry: ModelEntry
    rates: Rates
    by_token: bool
    by_second: bool


class PriceList:
    """``catalogue`` may answer with another object after a reload of policy; while it does not, prices are kept."""

    def __init__(self, catalogue: Callable[[], Catalogue], settings: CostSettings) -> None:
        self.catalogue, self.settings = catalogue, settings
        self._kept_of: Catalogue | None = None
        self._kept: dict[str, Priced] = {}

    def __call__(self, admission: Admission, outcome: Outcome) -> Mapping[str, int]:
        """See ``Gateway.price``: ``micro_usd``, and where they apply ``saved_micro_usd``, ``estimated`` and
        ``energy_uwh``. Never raises: a cost that cannot be told is left out, and budgets keep what they held."""
        try:
            return self._cost(admission.call, outcome)
        except Exception:
            log.exception("a call could not be priced", extra={"call": admission.call.id})
            return {}

    def bound(self, call: Call) -> int:
        """Micro US dollars that the call is held to cost at most, whichever of its models answers."""
        asked = self._asked(call)
        if asked is None:
            return 0
        work = self._most(call)
        return max(priced.rates.micro_usd(work) for priced in (asked, *self._fallbacks(asked.entry)))

    def _cost(self, call: Call, outcome: Outcome) -> dict[str, int]:
        priced = self._answering(call, outcome)
        if priced is None:
            return {}
        is_saved = outcome.is_saved
        if not is_saved and not was_worked_on(outcome):
            return {"micro_usd": 0}
        work, estimated = self._work(call, outcome, priced)
        amount, energy = priced.rates.micro_usd(work), priced.entry.energy
        cost = {"micro_usd": 0, "saved_micro_usd": amount} if is_saved else {"micro_usd": amount}
        if energy is not None and not is_saved:
            cost["energy_uwh"] = energy_uwh(energy, work)
        if estimated:
            cost["estimated"] = 1
        return cost

    def _work(self, call: Call, outcome: Outcome, priced: Priced) -> tuple[Work, bool]:
        """What was done, and whether any of it that is billed had to be estimated."""
        usage, seconds = outcome.usage, _seconds(call, outcome) if priced.by_second else 0.0
        if not priced.by_token:
            return Work(usage.input_tokens or 0, usage.output_tokens or 0, usage.cached_tokens or 0, seconds), False
        given, made = usage.input_tokens, usage.output_tokens
        estimated = given is None or (made is None and call.operation in ANSWERS_TOKENS)
        if given is None:
            given = self._tokens(len(call.body))
        if made is None:
            made = self._answered_tokens(call, outcome) if call.operation in ANSWERS_TOKENS else 0
        return Work(given, made, usage.cached_tokens or 0, seconds), estimated

    def _answered_tokens(self, call: Call, outcome: Outcome) -> int:
        """An event of a stream is a token, or near enough; of the events we saw the first 64 KiB at least."""
        seen = outcome.body
        if not call.streams or not seen:
            return self._tokens(outcome.byte_count)
        return -(-seen.count(EVENT) * outcome.byte_count // len(seen))

    def _tokens(self, byte_count: int) -> int:
        return -int(-byte_count // self.settings.bytes_per_token)

    def _most(self, call: Call) -> Work:
        given = -int(-len(call.body) // self.settings.bound_bytes_per_token)
        made = most_tokens(call, self.settings.assumed_output_tokens) if call.operation in ANSWERS_TOKENS else 0
        return Work(given, made, 0, self.settings.assumed_seconds)

    def _asked(self, call: Call) -> Priced | None:
        resource = call.resource
        if call.action != "infer" or not resource.startswith(MODEL):
            return None
        return self._priced(resource[len(MODEL) :])

    def _fallbacks(self, asked: ModelEntry) -> Iterator[Priced]:
        for name in asked.fallback:
            priced = self._priced(name)
            if priced is not None:
                yield priced

    def _priced(self, model: str) -> Priced | None:
        catalogue = self.catalogue()
        if catalogue is not self._kept_of:
            self._kept_of, self._kept = catalogue, {}
        found = self._kept.get(model)
        if found is None:
            entry = catalogue.model(model)
            if entry is None:
                return None
            rates = Rates.of(entry.price)
            found = self._kept[model] = Priced(entry, rates, counts_tokens(entry), counts_seconds(entry))
        return found

    def _answering(self, call: Call, outcome: Outcome) -> Priced | None:
        """Whoever answered. One that the catalogue does not know by the name it gave is billed as the one asked for."""
        asked = self._asked(call)
        if asked is None or outcome.rung in FRESH_RUNGS or outcome.is_saved:
            return asked
        named = outcome.served_by
        return self._priced(named) or self._priced(named.partition("/")[0]) or asked


def was_worked_on(outcome: Outcome) -> bool:
    """Whether a model did anything for the call: not when it never got there, nor when the answer was a refusal.

    A call that timed out or was given up may have been worked on without a sign; that counts.
    """
    if outcome.http_status == 0:
        return outcome.status in ("timeout", "cancelled")
    return outcome.http_status < HTTP_ERROR


def counts_tokens(entry: ModelEntry) -> bool:
    price, energy = entry.price, entry.energy
    by_token = price.input_per_million_usd or price.output_per_million_usd or price.cached_input_per_million_usd
    return bool(by_token or (energy and (energy.joules_per_input_token or energy.joules_per_output_token)))


def counts_seconds(entry: ModelEntry) -> bool:
    return bool(entry.price.per_second_usd or (entry.energy and entry.energy.watts))


def most_tokens(call: Call, assumed: int) -> int:
    """Tokens that the request allows its answer over all prompts and choices; ``assumed`` for each where it does not
    say. A cap counts by the name that its operation has for it: servers pass over any other."""
    try:
        fields = _decode_fields(call.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return assumed
    caps = [number for name in TOKEN_FIELDS[call.operation] if (number := _number(fields.get(name))) is not None]
    choices = max(_number(fields.get(name)) or 1 for name in CHOICE_FIELDS)
    return (max(caps) if caps else assumed) * choices * prompts_of(call)


def _number(raw: msgspec.Raw | None) -> int | None:
    """As servers read it, to whom ``"3"`` and ``3.0`` are three."""
    if raw is None:
        return None
    try:
        number = int(float(msgspec.json.decode(raw)))
    except (ValueError, TypeError, OverflowError):
        return None
    return number if number > 0 else None


def _seconds(call: Call, outcome: Outcome) -> float:
    """From sending to the answer: of a stream to its end, of any other to its first byte, so that a slow reader costs
    nothing."""
    ended_s = outcome.ended_s if call.streams or outcome.first_byte_s is None else outcome.first_byte_s
    return max(0.0, ended_s - outcome.started_s)
