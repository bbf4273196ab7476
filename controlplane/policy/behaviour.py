"""The shape of `behaviour.yaml`: what an agent's own traffic may look like, and what happens when it does not.

    rates      calls in a window against what this agent does at this hour of the day
    sequences  this, then that, so many times, within a run, a session or a time, unless something came in between
    loops      the same call again and again, or a few calls in turn
    contexts   a call that is unlike everything this agent has asked before

Checked here with the rest of the bundle, so that `policy lint` names a mistake with its line; what the rules do stands
in the room `behaviour`. Words that nobody knows refuse the bundle: a rule that never matches protects nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from controlplane.policy.catalogue import Catalogue, CostTier, SideEffect
from controlplane.policy.documents import Document, Path, Problem
from controlplane.policy.resources import Pattern, PatternError
from controlplane.policy.rules import ACTIONS

NAME = "behaviour.yaml"
ID_PATTERN = r"^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+$"
LONGEST_S = 24 * 3600
"""No rule looks further back, and no run or session lasts longer: what is remembered of an agent is bounded."""

Answer = Literal["throttle", "step_up", "block", "alert"]
Mode = Literal["enforce", "dry_run"]

_SPAN = re.compile(r"([1-9][0-9]{0,5})([smh])", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "h": 3600}


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Selector(_Shape):
    """Calls of one sort. All that is named must hold; of a list, one of its words.

    What the catalogue does not list carries every label and is the most sensitive of its kind, as everywhere in policy.
    """

    do: str | list[str] = Field(default="*", description="Actions; `*` is every action.")
    on: str | list[str] = Field(default_factory=list, description="Resource patterns; none named is every resource.")
    labels: list[str] = Field(default_factory=list, description="Labels of the catalogue.")
    min_sensitivity: int | None = Field(default=None, ge=0, le=5)
    side_effect: list[SideEffect] = Field(default_factory=list)
    cost_tier: list[CostTier] = Field(default_factory=list)

    @field_validator("do")
    @classmethod
    def _known_actions(cls, do: str | list[str]) -> str | list[str]:
        words = listed(do)
        for unknown in sorted(set(words) - {*ACTIONS, "*"}):
            raise ValueError(f"{unknown!r} is none of {', '.join(ACTIONS)} or '*'")
        if not words:
            raise ValueError("names no action")
        return do

    @field_validator("on")
    @classmethod
    def _readable_patterns(cls, on: str | list[str]) -> str | list[str]:
        for text in listed(on):
            try:
                Pattern.parse(text)
            except PatternError as error:
                raise ValueError(str(error)) from None
        return on


class Step(Selector):
    times: int = Field(default=1, ge=1, le=1000, description="So many such calls.")


class StepUp(_Shape):
    """What a caller must show: a token of a certain class, or one that was fetched not long ago (RFC 9470)."""

    acr_values: list[str] = Field(default_factory=list, description="Values of the claim `acr`, one of which will do.")
    max_age_s: int | None = Field(default=None, ge=1, description="Seconds since the claim `auth_time`, at most.")

    @property
    def asks_something(self) -> bool:
        return bool(self.acr_values) or self.max_age_s is not None


class _Rule(_Shape):
    id: str = Field(pattern=ID_PATTERN)
    description: str = ""
    answer: Answer
    mode: Mode = Field(default="enforce", description="`dry_run` records what it would have answered, and lets it go.")
    except_agents: list[str] = Field(default_factory=list, description="Agents that this rule leaves alone.")
    quiet_s: int = Field(
        default=600, ge=0, description="Seconds for which the same finding is not written into the ledger again."
    )
    step_up: StepUp | None = Field(default=None, description="What satisfies this rule, where it is not the file's.")


class Prior(_Shape):
    """What a new agent is taken for until it is known."""

    mean: float = Field(default=60.0, gt=0, description="Calls in a window.")
    spread: float = Field(
        default=1.0, gt=0, le=10, description="1/r of the negative binomial: 1 is as wide as a geometric distribution."
    )


class RateRule(_Rule):
    answer: Answer = "throttle"
    window_s: int = Field(default=60, ge=1, le=3600, description="Seconds of one window.")
    limit: Literal["negative_binomial", "mean_sigma"] = Field(
        default="negative_binomial",
        description="`mean_sigma` is plain mean + so many sigmas: 3 to 33 false alarms a day and agent.",
    )
    tail: float = Field(default=0.00001, gt=0, lt=0.1, description="Chance that a normal window is over the limit.")
    sigmas: float = Field(default=3.0, gt=0, le=20, description="For `mean_sigma`.")
    at_least: int = Field(default=0, ge=0, description="Calls in a window that are never too many.")
    prior: Prior = Prior()
    settled_days: int = Field(
        default=2,
        ge=0,
        le=30,
        description="Days on which an hour must have been seen before the prior's limit is gone.",
    )
    memory_days: int = Field(default=28, ge=1, le=365, description="Days after which what was learnt counts half.")
    back_ratio: float = Field(
        default=0.8, gt=0, lt=1, description="Share of the limit that a throttled agent gets, and must keep to."
    )
    quiet_windows: int = Field(default=3, ge=1, le=1000, description="Windows in a row for the way back.")


class SequenceRule(_Rule):
    after: Step | list[Step] = Field(default_factory=list, description="What comes before, in this order.")
    then: Step = Field(description="The call that is answered.")
    within: str = Field(description="`run`, `session`, or a time: 90s, 10m, 24h.")
    unless: Selector | None = Field(default=None, description="A call that makes everything before it count no more.")
    untraced: Literal["session", "skip"] = Field(
        default="session", description="What a call without a run id counts for, where `within` is `run`."
    )

    @property
    def span_s(self) -> int:
        """How far it looks back, in seconds."""
        return seconds_of(self.within) or LONGEST_S

    @property
    def steps(self) -> tuple[Step, ...]:
        return (*(self.after if isinstance(self.after, list) else [self.after]), self.then)

    @field_validator("within")
    @classmethod
    def _known_span(cls, within: str) -> str:
        if within not in ("run", "session") and not 0 < seconds_of(within) <= LONGEST_S:
            raise ValueError("`within` is `run`, `session`, or a time up to 24h such as 90s or 10m")
        return within

    @model_validator(mode="after")
    def _is_a_sequence(self) -> Self:
        if len(self.steps) == 1 and self.then.times == 1:
            raise ValueError("one call is no sequence: write a rule of policy, or say `after` or `times`")
        if len(self.steps) > 8:  # noqa: PLR2004  more is a programme and not a rule
            raise ValueError("at most eight steps")
        if self.answer == "throttle" and not seconds_of(self.within):
            raise ValueError("a throttle needs a time in `within`, after which the call may come again")
        return self


class Cycle(_Shape):
    longest: int = Field(default=4, ge=2, le=8, description="Calls in turn: 2 is ABAB.")
    times: int = Field(default=5, ge=2, le=30, description="Turns in a row.")


class LoopRule(_Rule):
    of: Selector = Selector()
    same_call: int | None = Field(default=None, ge=2, le=200, description="The same call with the same arguments.")
    cycle: Cycle | None = None
    within: Literal["run", "session"] = "run"
    untraced: Literal["session", "skip"] = "session"

    @model_validator(mode="after")
    def _is_a_loop(self) -> Self:
        if self.same_call is None and self.cycle is None:
            raise ValueError("say `same_call`, `cycle` or both")
        if self.answer == "throttle":
            raise ValueError("a loop does not end by waiting: alert, step_up or block")
        return self


class ContextRule(_Rule):
    answer: Answer = "step_up"
    of: Selector = Selector()
    quantile: float = Field(default=0.005, gt=0, lt=0.5, description="Share of its own calls that are as unlike.")
    below: float | None = Field(
        default=None, gt=0, lt=1, description="A fixed similarity (such as 0.7) in place of the agent's own quantile."
    )
    learn_calls: int = Field(default=400, ge=20, le=2000, description="Calls of an agent before it is judged.")
    in_a_row: int = Field(default=1, ge=1, le=20, description="Unlike calls in a row.")
    hold_s: int = Field(
        default=900, ge=0, le=LONGEST_S, description="Seconds for which it stays suspect, or until it was verified."
    )

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.answer == "throttle":
            raise ValueError("an unlike call is no faster than others: alert, step_up or block")
        if self.below is None and self.quantile * self.learn_calls < 1:
            raise ValueError("so rare a quantile needs more `learn_calls`")
        return self


class BehaviourFile(_Shape):
    """The file `behaviour.yaml`."""

    idle_s: int = Field(
        default=1800, ge=60, le=LONGEST_S, description="Seconds without a call after which a run or session is over."
    )
    step_up: StepUp = Field(default=StepUp(), description="What satisfies `step_up`, unless a rule says otherwise.")
    rates: list[RateRule] = Field(default_factory=list)
    sequences: list[SequenceRule] = Field(default_factory=list)
    loops: list[LoopRule] = Field(default_factory=list)
    contexts: list[ContextRule] = Field(default_factory=list)

    @property
    def rules(self) -> tuple[AnyRule, ...]:
        return (*self.rates, *self.sequences, *self.loops, *self.contexts)


AnyRule = RateRule | SequenceRule | LoopRule | ContextRule


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The rules of a bundle, and where each stands (`behaviour.yaml:14`), by its id."""

    file: BehaviourFile = field(default_factory=BehaviourFile)
    sources: Mapping[str, str] = field(default_factory=dict)


NO_BEHAVIOUR = Behaviour()


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def seconds_of(span: str) -> int:
    """The seconds of `10m`; 0 for what is no time."""
    found = _SPAN.fullmatch(span)
    return int(found[1]) * _UNIT_S[found[2]] if found else 0


def read(document: Document, file: BehaviourFile, catalogue: Catalogue) -> tuple[Behaviour, list[Problem]]:
    """The rules with their places, and what only the rest of the bundle can tell about them."""
    sources: dict[str, str] = {}
    problems: list[Problem] = []
    labels = {label for path in catalogue.resources for label in catalogue.resource(path).attributes["labels"]}
    for path, rule in _placed(file):
        source = document.source((*path, "id"))
        if rule.id in sources:
            problems.append(Problem(source, f"{rule.id!r} is there already"))
        sources[rule.id] = source
        if rule.answer == "step_up" and not (rule.step_up or file.step_up).asks_something:
            problems.append(Problem(source, f"{rule.id}: `step_up` says neither `acr_values` nor `max_age_s`"))
        for part, selector in selectors(rule):
            for unknown in sorted(set(selector.labels) - labels):
                where = document.source((*path, *part, "labels"))
                problems.append(Problem(where, f"{rule.id}: nothing in the catalogue has the label {unknown!r}"))
    return Behaviour(file, sources), problems


def selectors(rule: AnyRule) -> Iterator[tuple[Path, Selector]]:
    """Every selector of a rule and its place below it."""
    if isinstance(rule, SequenceRule):
        steps = rule.after if isinstance(rule.after, list) else [rule.after]
        for index, step in enumerate(steps):
            yield ("after", index) if isinstance(rule.after, list) else ("after",), step
        yield ("then",), rule.then
        if rule.unless is not None:
            yield ("unless",), rule.unless
    elif isinstance(rule, LoopRule | ContextRule):
        yield ("of",), rule.of


def warnings(behaviour: Behaviour, catalogue: Catalogue) -> Iterator[Problem]:
    """What loads and is merely suspicious."""
    for rule in behaviour.file.rules:
        source = behaviour.sources[rule.id]
        if isinstance(rule, SequenceRule) and rule.within == "run" and rule.after and rule.answer == "block":
            yield Problem(source, f"{rule.id}: an agent names its runs itself and can begin a new one; say `session`")
        for _, selector in selectors(rule):
            for text in listed(selector.on):
                pattern = Pattern.parse(text)
                is_thing = len(pattern.segments) > 1 and pattern.segments[0] in ("model", "tool", "mcp")
                if pattern.is_literal and is_thing and catalogue.entry(text) is None:
                    yield Problem(source, f"{rule.id} names {text}, which the catalogue does not have")


def _placed(file: BehaviourFile) -> Iterator[tuple[Path, AnyRule]]:
    lists: Mapping[str, Sequence[AnyRule]] = {
        "rates": file.rates,
        "sequences": file.sequences,
        "loops": file.loops,
        "contexts": file.contexts,
    }
    for name, rules in lists.items():
        for index, rule in enumerate(rules):
            yield (name, index), rule
