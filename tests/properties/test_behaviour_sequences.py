"""The automata of forbidden sequences against the sentence they stand for, searched for by brute force."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.behaviour.selecting import Deed
from controlplane.behaviour.sequences import Automaton, Progress
from controlplane.policy import Catalogue
from controlplane.policy.behaviour import SequenceRule, Step, listed

TOOLS = ["a", "b", "c"]
Event = tuple[str, int]
"""The tool, and seconds since the call before."""

tools = st.lists(st.sampled_from(TOOLS), min_size=1, max_size=2, unique=True)
steps = st.builds(
    lambda names, times: Step(on=[f"/tool/{name}" for name in names], times=times), tools, st.integers(1, 3)
)
histories = st.lists(st.tuples(st.sampled_from(TOOLS), st.integers(0, 40)), max_size=9)


@st.composite
def rules(draw: st.DrawFn) -> SequenceRule:
    after = draw(st.lists(steps, max_size=2))
    then = draw(steps)
    if not after and then.times == 1:
        then = then.model_copy(update={"times": 2})
    unless = draw(st.none() | steps)
    within = draw(st.sampled_from(["session", "30s", "60s"]))
    return SequenceRule(id="a.b", after=after, then=then, within=within, unless=unless, answer="alert")


def matches_step(step: object, tool: str) -> bool:
    return f"/tool/{tool}" in listed(step.on)  # type: ignore[attr-defined]


def naive(rule: SequenceRule, before: list[tuple[str, float]], tool: str, now_s: float) -> bool:
    """The sentence itself: some calls, each used once and in order, since the last one that forgives."""
    if not matches_step(rule.then, tool) or (rule.unless is not None and matches_step(rule.unless, tool)):
        return False
    pattern = [step for step in rule.steps for _ in range(step.times)][:-1]
    if rule.unless is not None:
        forgiven = [index for index, (name, _) in enumerate(before) if matches_step(rule.unless, name)]
        before = before[forgiven[-1] :] if forgiven else before  # one that forgives may itself be a first step
    return any(
        all(matches_step(step, name) for step, (name, _) in zip(pattern, chosen, strict=True))
        and chosen[0][1] >= now_s - rule.span_s
        for chosen in combinations(before, len(pattern))
    )


def timed(history: list[Event]) -> list[tuple[str, float]]:
    now_s, found = 1000.0, []
    for tool, gap_s in history:
        now_s += gap_s
        found.append((tool, now_s))
    return found


def walk(automaton: Automaton, progress: Progress, calls: list[tuple[str, float]]) -> None:
    for tool, now_s in calls:
        part = automaton.part_of(Deed("call", f"/tool/{tool}"))
        if part is not None:
            automaton.advance(progress, part, now_s)


@settings(max_examples=400, deadline=None)
@given(rules(), histories)
def test_automaton_says_what_the_whole_history_says(rule: SequenceRule, history: list[Event]) -> None:
    automaton = Automaton(rule, Catalogue())
    progress, calls = automaton.new(), timed(history)
    for index, (tool, now_s) in enumerate(calls):
        part = automaton.part_of(Deed("call", f"/tool/{tool}"))
        found = part is not None and automaton.matches(progress, part, now_s)
        assert found == naive(rule, calls[:index], tool, now_s)
        if part is not None:
            automaton.advance(progress, part, now_s)


@settings(max_examples=200, deadline=None)
@given(rules(), histories)
def test_what_is_kept_is_bounded_by_the_rule_and_not_by_the_history(rule: SequenceRule, history: list[Event]) -> None:
    automaton = Automaton(rule, Catalogue())
    progress = automaton.new()
    walk(automaton, progress, timed(history * 5))
    assert sum(map(len, progress.starts)) <= sum(step.times for step in rule.steps) - 1


@settings(max_examples=200, deadline=None)
@given(rules(), histories, histories)
def test_joined_progress_forgets_nothing_that_either_knew(
    rule: SequenceRule, mine: list[Event], theirs: list[Event]
) -> None:
    automaton = Automaton(rule, Catalogue())
    one, other = automaton.new(), automaton.new()
    walk(automaton, one, timed(mine))
    walk(automaton, other, timed(theirs))
    known = [(tool, progress) for tool in TOOLS for progress in (one.copy(), other.copy())]
    one.join(other)
    now_s = 1400.0
    for tool, progress in known:
        part = automaton.part_of(Deed("call", f"/tool/{tool}"))
        if part is not None and automaton.matches(progress, part, now_s):
            assert automaton.matches(one, part, now_s)


@settings(max_examples=200, deadline=None)
@given(rules(), histories)
def test_spent_progress_answers_nothing(rule: SequenceRule, history: list[Event]) -> None:
    automaton = Automaton(rule, Catalogue())
    progress, calls = automaton.new(), timed(history)
    walk(automaton, progress, calls)
    later_s = 1400.0
    if automaton.is_spent(progress, later_s):
        for tool in TOOLS:
            part = automaton.part_of(Deed("call", f"/tool/{tool}"))
            assert part is None or not automaton.matches(progress, part, later_s)
