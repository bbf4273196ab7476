"""Who is chosen, how often another is tried, and when a person must look."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from inference.selection import Evidence, Review, Selector, read_wish
from tests.unit.selection.models import NOW_S, TASK, TENANT, a_candidate, ask, judge, settings

GOOD = a_candidate("good", quality=0.9)
POOR = a_candidate("poor", quality=0.6)
BOTH = [POOR, GOOD]
NEVER, ALWAYS = (lambda _: 0.999), (lambda _: 0.0)


def test_the_best_score_is_chosen_and_all_scores_are_told() -> None:
    selected = Selector(settings(), Evidence(settings())).choose(ask(), BOTH, NOW_S)
    assert (selected.model, selected.why) == ("good", "best")
    assert dict(selected.scores) == {"poor": 766_666, "good": 1_000_000}


def test_who_is_alone_is_the_only_one() -> None:
    assert Selector(settings(), Evidence(settings())).choose(ask(), [POOR], NOW_S).why == "only"


def test_nobody_meets_the_constraints() -> None:
    wish = read_wish("auto:chat?max_latency_ms=5")
    selected = Selector(settings(), Evidence(settings())).choose(ask(constraints=wish.constraints), BOTH, NOW_S)
    assert (selected.model, selected.scores) == ("", ())


def test_constraints_leave_out_even_the_best() -> None:
    slow = a_candidate("slow", quality=0.99, latency_ms=900.0)
    wish = read_wish("auto:chat?max_latency_ms=200")
    selected = Selector(settings(), Evidence(settings())).choose(
        ask(constraints=wish.constraints), [slow, *BOTH], NOW_S
    )
    assert selected.model == "good"
    assert "slow" not in dict(selected.scores)


def test_a_price_is_that_of_this_call() -> None:
    dear = a_candidate("dear", quality=0.95, prices_usd=(1.0, 10.0, 0.0))
    wish = read_wish("auto:chat?max_price_usd=0.001")
    selector = Selector(settings(), Evidence(settings()))

    def chosen(output_tokens: int) -> str:
        return selector.choose(
            ask(constraints=wish.constraints, output_tokens=output_tokens), [dear, GOOD], NOW_S
        ).model

    assert chosen(100) == "dear"
    assert chosen(101) == "good"


def test_answers_move_the_choice() -> None:
    evidence = Evidence(settings())
    judge(evidence, GOOD, [0.0] * 60)
    assert Selector(settings(), evidence).choose(ask(), BOTH, NOW_S).model == "poor"


def test_latency_moves_the_choice_among_equals() -> None:
    evidence, twin = Evidence(settings()), a_candidate("twin", quality=0.9)
    evidence.learn_latency("twin", 50.0, NOW_S, streams=False)
    assert Selector(settings(), evidence).choose(ask(), [GOOD, twin], NOW_S).model == "twin"


def test_without_a_share_nobody_is_ever_tried() -> None:
    selector = Selector(settings(explore_share=0.0), Evidence(settings()), coin=ALWAYS)
    assert {selector.choose(ask(), BOTH, NOW_S).why for _ in range(50)} == {"best"}


def test_tries_stay_within_their_share() -> None:
    """Of two that nobody knows, every try draws anew, so that half of them land on the other one."""
    changes = settings(explore_share=0.1)
    unknown = [a_candidate("a", quality=None), a_candidate("b", quality=None)]
    selector = Selector(changes, Evidence(changes), random=Random(1))
    whys = Counter(selector.choose(ask(f"agent:{n}"), unknown, NOW_S).why for n in range(5000))
    assert 0 < whys["exploration"] / 5000 <= 0.12


def test_who_is_little_known_is_tried_more_than_who_is_surely_worse() -> None:
    changes = settings(explore_share=0.5)
    unknown, evidence = a_candidate("unknown", quality=None), Evidence(changes)
    judge(evidence, POOR, [0.6] * 150)
    judge(evidence, GOOD, [0.9] * 150)
    selector = Selector(changes, evidence, random=Random(1), coin=ALWAYS)
    tried = Counter(selector.choose(ask(f"agent:{n}"), [*BOTH, unknown], NOW_S).model for n in range(500))
    assert tried["unknown"] > 10 * max(tried["poor"], 1)


def test_an_agent_stays_with_what_it_tries_for_the_period() -> None:
    changes = settings(explore_share=0.5, sticky_s=300)
    unknown = [a_candidate(name, quality=None) for name in "abcdef"]
    selector = Selector(changes, Evidence(changes), random=Random(2), coin=ALWAYS)
    start = 300.0 * 1000
    assert len({selector.choose(ask(), unknown, start + second).model for second in range(0, 300, 7)}) == 1
    later = {selector.choose(ask(), unknown, start + 300 * period).model for period in range(20)}
    assert len(later) > 1


def test_an_agent_leaves_what_it_tries_when_that_is_gone() -> None:
    changes = settings(explore_share=0.5)
    unknown = [a_candidate(name, quality=None) for name in "abc"]
    selector = Selector(changes, Evidence(changes), random=Random(2), coin=ALWAYS)
    tried = selector.choose(ask(), unknown, NOW_S).model
    rest = [one for one in unknown if one.name != tried]
    assert selector.choose(ask(), rest, NOW_S).model != tried


class Reviewing:
    """A selector whose best model gets worse."""

    def __init__(self, **changes: float) -> None:
        self.settings = settings(review_answers=30, **changes)
        self.evidence, self.told = Evidence(self.settings), list[Review]()
        self.selector = Selector(self.settings, self.evidence, on_review=self.told.append)
        self.only = [a_candidate("good", quality=0.9), a_candidate("poor", quality=0.2)]

    def spoil(self, share: float, answers: int = 60) -> None:
        judge(self.evidence, self.only[0], [float(n % 100 >= share * 100) for n in range(0, answers * 37, 37)])

    def choose(self) -> str:
        return self.selector.choose(ask(), self.selector.cleared(ask(), self.only), NOW_S).model


def test_three_choices_in_a_row_of_a_model_that_lost_a_tenth_bring_a_person() -> None:
    world = Reviewing()
    world.spoil(0.4)
    assert [world.choose() for _ in range(4)] == ["good", "good", "good", "poor"]
    (review,) = world.told
    assert review.key == (TENANT, TASK, "good")
    assert (review.reference_ppm, review.choices) == (900_000, 3)
    assert review.accuracy_ppm < 810_000


def test_a_model_as_good_as_ever_is_chosen_for_ever() -> None:
    world = Reviewing()
    world.spoil(0.1)
    assert {world.choose() for _ in range(20)} == {"good"}
    assert world.told == []


@pytest.mark.parametrize(("share", "answers"), [(1.0, 10), (0.25, 30)])
def test_a_loss_that_may_be_chance_brings_nobody(share: float, answers: int) -> None:
    """Too few answers, and a quarter wrong of thirty: 0.75 is below nine tenths of 0.9, and not certainly."""
    world = Reviewing()
    world.only.pop()
    world.spoil(share, answers)
    for _ in range(20):
        world.choose()
    assert world.told == []


def test_two_that_both_lost_are_counted_apart() -> None:
    world = Reviewing()
    world.only = [a_candidate("good", quality=0.9), a_candidate("other", quality=0.9)]
    for one in world.only:
        judge(world.evidence, one, [0.0] * 60)
    for turn in range(10):
        world.selector.choose(ask(), [world.only[turn % 2]], NOW_S)
    assert world.told == []


def test_another_choice_in_between_begins_the_count_anew() -> None:
    world = Reviewing()
    world.spoil(0.4)
    for _ in range(3):
        world.choose()
        world.choose()
        other = a_candidate("other", quality=1.0, latency_ms=1.0)
        judge(world.evidence, other, [0.0])
        world.selector.choose(ask(), [other, *world.only], NOW_S)
    assert world.told == []


def test_a_task_of_one_tenant_is_counted_apart_from_another() -> None:
    world = Reviewing()
    world.spoil(0.4)
    for _ in range(3):
        assert world.selector.choose(ask(tenant="globex"), world.only, NOW_S).model == "good"
    assert world.told == []


def test_without_a_card_the_first_answers_are_the_reference() -> None:
    world = Reviewing()
    world.only[0] = a_candidate("good", quality=None)
    judge(world.evidence, world.only[0], [1.0] * 30)
    judge(world.evidence, world.only[0], [1.0, 0.0] * 30)
    for _ in range(3):
        world.choose()
    assert [review.reference_ppm for review in world.told] == [pytest.approx(1_000_000, abs=20_000)]


def test_what_a_person_accepted_is_the_new_reference() -> None:
    world = Reviewing()
    world.spoil(0.4)
    for _ in range(3):
        world.choose()
    world.selector.reviews.clear()
    world.evidence.accept(TENANT, TASK, "good")
    assert {world.choose() for _ in range(10)} == {"good"}
    assert len(world.told) == 1
