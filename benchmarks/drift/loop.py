"""The closed loop on real census rows: who retrains when, and what error is served after a change at row 12,000.

The champion is a gradient boosting classifier trained on 30,000 rows of 2015, the stream is drawn from 2016 to 2018.
Labels come 1,000 rows late and a training takes 1,000 rows. Four streams, three with a change of our making: *none*;
*benign*, 30 % of rows become children (whom it classifies well); *concept*, people of 18 to 44 are relabelled at random
in 35 % of rows and everybody from 65 on works; *feed bug*, ages in months in 30 % of rows, for 14,000 rows.

The loop is simulated around the product's own ``Panel`` and ``PromotionGate``; only time and trainers are pretended.
Rivals: never retrain, retrain every 8,000 rows, and "drift score > 0.3": Evidently's normalised Wasserstein distance of
any column over windows of 1,000 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.drift.real import Census
from benchmarks.drift.report import Target
from benchmarks.drift.streams import Rows
from controlplane.drift.panel import Panel, Reference
from controlplane.retraining.promotion import PromotionGate, Ruling

Labels = NDArray[np.int64]
ROWS, CHANGE, BUG_ENDS = 40_000, 12_000, 26_000
TRAINED_ON, REFERENCE_ROWS = 30_000, 20_000
LABELS_LATE, TRAINING_TAKES, STEP = 1_000, 1_000, 250
SCENARIOS = ("none", "benign", "concept", "feed bug")
FIRST_LABELS, MOST_LABELS = 2_000, 16_000
POLICIES = ("never", "every 8,000", "score > 0.3", "panel")


@dataclass(frozen=True, slots=True)
class Course:
    scenario: str
    policy: str
    seed: int
    served_error: float
    trainings: int


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """The champion and the lighter model that answers without the age."""

    champion: Any
    lighter: Any
    age: int
    reference: Rows
    reference_labels: Labels


@dataclass(slots=True, eq=False)
class Answers:
    """What each model answers to every row of the stream, asked once: a model sees no row before it is its turn."""

    models: Models
    rows: Rows
    _known: dict[int, tuple[Any, Labels]] = field(default_factory=dict)

    def of(self, model: Any) -> Labels:
        if id(model) not in self._known:
            rows = np.delete(self.rows, self.models.age, 1) if model is self.models.lighter else self.rows
            self._known[id(model)] = (model, model.predict(rows))
        return self._known[id(model)][1]


def train(rows: Rows, labels: Labels) -> Any:
    return HistGradientBoostingClassifier(max_iter=120, random_state=0).fit(rows, labels)


def models_of(found: Census) -> Models:
    age = found.names.index("AGEP")
    rows, labels = found.reference[:TRAINED_ON], found.reference_labels[:TRAINED_ON]
    lighter = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(np.delete(rows, age, 1), labels)
    held = slice(TRAINED_ON, TRAINED_ON + REFERENCE_ROWS)
    return Models(train(rows, labels), lighter, age, found.reference[held], found.reference_labels[held])


def stream(scenario: str, found: Census, seed: int) -> tuple[Rows, Labels]:
    random = np.random.default_rng(seed)
    picked = random.permutation(len(found.later))[:ROWS]
    rows, labels = found.later[picked].copy(), found.later_labels[picked].copy()
    age, after = found.names.index("AGEP"), np.arange(ROWS) >= CHANGE
    if scenario == "concept":
        young = after & (rows[:, age] >= 18) & (rows[:, age] < 45) & (random.random(ROWS) < 0.35)
        labels[young] = 1 - labels[young]
        labels[after & (rows[:, age] >= 65)] = 1
    if scenario == "benign":
        children = np.flatnonzero(found.later[:, age] < 16)
        places = np.flatnonzero(after & (random.random(ROWS) < 0.30))
        taken = random.choice(children, len(places))
        rows[places], labels[places] = found.later[taken], found.later_labels[taken]
    if scenario == "feed bug":
        rows[after & (np.arange(ROWS) < BUG_ENDS) & (random.random(ROWS) < 0.30), age] *= 12
    return rows, labels


@dataclass(slots=True)
class Blind:
    """Retrains on the newest labelled rows whenever ``asks(window)`` says so, and swaps without a gate."""

    answers: Answers
    asks: Callable[[int, Rows], bool]
    model: Any = None
    trainings: int = 0
    _due: tuple[int, Any] | None = None

    def serve(self, start: int, rows: Rows, labels: Labels) -> Labels:
        end = min(start + STEP, len(rows))
        if self._due and end >= self._due[0]:
            self.model, self._due = train(*self._due[1]), None
        answered = self.answers.of(self.model or self.answers.models.champion)[start:end]
        if end % 1_000 == 0 and self._due is None and self.asks(end, rows[end - 1_000 : end]):
            known = slice(max(0, end - LABELS_LATE - 4_000), end - LABELS_LATE)
            if known.stop - known.start >= 1_000:
                self._due = (end + TRAINING_TAKES, (rows[known].copy(), labels[known].copy()))
                self.trainings += 1
        return answered


@dataclass(slots=True)
class Governed:
    """Labels prove harm, then 2,000 labels from after the change train a challenger, which has to win its pairs."""

    answers: Answers
    models: Models = field(init=False)
    model: Any = None
    trainings: int = 0
    warnings: int = 0
    panel: Panel = field(init=False)
    _low: Rows = field(init=False)
    _high: Rows = field(init=False)
    _change: int | None = None
    _needed: int = FIRST_LABELS
    _due: tuple[int, Any] | None = None
    _challenger: Any = None
    _gate: PromotionGate = field(default_factory=PromotionGate)
    _fallback: PromotionGate = field(default_factory=PromotionGate)

    def __post_init__(self) -> None:
        self.models = self.answers.models
        reference = self.models.reference
        self.model = self.models.champion
        self._low, self._high = reference.min(axis=0), reference.max(axis=0)
        wrong = self.model.predict(reference) != self.models.reference_labels
        self._watch(Reference(int(wrong.sum()), len(wrong)))

    def _watch(self, error: Reference) -> None:
        names = [f"c{j}" for j in range(self.models.reference.shape[1])]
        self.panel = Panel.enrol(names, self.models.reference, {"error": error})

    def _sound(self, rows: Rows) -> NDArray[np.bool_]:
        return np.asarray(((rows >= self._low) & (rows <= self._high)).all(axis=1))

    def serve(self, start: int, rows: Rows, labels: Labels) -> Labels:
        end = min(start + STEP, len(rows))
        if self._due and end >= self._due[0]:
            self._challenger, self._due, self._gate = train(*self._due[1]), None, PromotionGate()
        now = rows[start:end]
        answered = self.answers.of(self.model)[start:end].copy()
        lighter = ~self._sound(now)
        if self._fallback.ruling is Ruling.PROMOTE:
            lighter[:] = True
        answered[lighter] = self.answers.of(self.models.lighter)[start:end][lighter]
        self.warnings += len(self.panel.feed(now, numbers=np.arange(start, end)))
        if end > LABELS_LATE:
            self._learn(max(0, start - LABELS_LATE), end - LABELS_LATE, rows, labels)
        self._retrain(end, rows, labels)
        return answered

    def _learn(self, first: int, last: int, rows: Rows, labels: Labels) -> None:
        """Labels of rows [first, last) have come. Rows out of range say nothing about the model."""
        sound = first + np.flatnonzero(self._sound(rows[first:last]))
        if not len(sound):
            return
        wrong = self.answers.of(self.model)[sound] != labels[sound]
        if self._change is None:
            verdicts = self.panel.feed(signals={"error": wrong.astype(float)}, numbers=sound)
            if verdicts:
                self._change, self._needed = verdicts[0].since_row + 1, FIRST_LABELS
                self._fallback = PromotionGate(undecided_rows=ROWS)
            return
        light = self.answers.of(self.models.lighter)[sound] != labels[sound]
        self._fallback.update_all(zip(wrong.tolist(), light.tolist(), strict=True))
        if self._challenger is not None:
            better = self.answers.of(self._challenger)[sound] != labels[sound]
            self._rule(self._gate.update_all(zip(wrong.tolist(), better.tolist(), strict=True)))

    def _rule(self, ruling: Ruling) -> None:
        if ruling is Ruling.OPEN:
            return
        if ruling is Ruling.PROMOTE:
            self.model, self._fallback = self._challenger, PromotionGate(undecided_rows=ROWS)
            self._watch(Reference(self._gate.challenger_errors, self._gate.rows))
        self._challenger, self._needed = None, self._needed * 2
        if self._needed > MOST_LABELS:
            self._change = None

    def _retrain(self, now: int, rows: Rows, labels: Labels) -> None:
        if self._change is None or self._due is not None or self._challenger is not None:
            return
        known = slice(self._change, now - LABELS_LATE)
        if known.stop - known.start >= self._needed:
            sound = self._sound(rows[known])
            self._due = (now + TRAINING_TAKES, (rows[known][sound], labels[known][sound]))
            self.trainings += 1


def _score(reference: Rows) -> Callable[[int, Rows], bool]:
    """Evidently's normalised Wasserstein distance of any column above 0.3: its default for large references."""
    ordered, spread = np.sort(reference, axis=0), np.maximum(reference.std(axis=0), 0.001)

    def asks(_: int, window: Rows) -> bool:
        repeated = np.repeat(np.sort(window, axis=0), len(ordered) // len(window), axis=0)
        return bool((np.abs(ordered - repeated).mean(axis=0) / spread > 0.3).any())

    return asks


def follow(policy: str, models: Models, rows: Rows, labels: Labels) -> tuple[float, int]:
    """Error served after the change, and trainings."""
    server: Blind | Governed
    if policy == "panel":
        server = Governed(Answers(models, rows))
    else:
        asks: dict[str, Callable[[int, Rows], bool]] = {
            "never": lambda _, __: False,
            "every 8,000": lambda row, _: row % 8_000 == 0,
            "score > 0.3": _score(models.reference),
        }
        server = Blind(Answers(models, rows), asks[policy])
    wrong = np.concatenate(
        [server.serve(start, rows, labels) != labels[start : start + STEP] for start in range(0, len(rows), STEP)]
    )
    return float(wrong[CHANGE:].mean()), server.trainings


def compare(found: Census, *, seeds: Iterable[int], say: Callable[[str], None]) -> list[Course]:
    models = models_of(found)
    courses = []
    for seed in seeds:
        for scenario in SCENARIOS:
            rows, labels = stream(scenario, found, seed)
            courses += [Course(scenario, policy, seed, *follow(policy, models, rows, labels)) for policy in POLICIES]
        say(f"closed loop, seed {seed} done")
    return courses


def table(courses: Sequence[Course]) -> str:
    lines = ["closed loop: error served after the change (trainings)" + "".join(f"{s:>18}" for s in SCENARIOS)]
    for policy in POLICIES:
        cells = [_cell([c for c in courses if (c.policy, c.scenario) == (policy, s)]) for s in SCENARIOS]
        lines.append(f"{policy:<53}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def _cell(courses: Sequence[Course]) -> str:
    return f"{mean(c.served_error for c in courses):.4f} ({mean(c.trainings for c in courses):.1f})"


def targets(courses: Sequence[Course]) -> list[Target]:
    def of(policy: str, scenario: str) -> list[Course]:
        return [c for c in courses if (c.policy, c.scenario) == (policy, scenario)]

    needless = sum(c.trainings for scenario in ("none", "benign", "feed bug") for c in of("panel", scenario))
    found = [Target("trainings without drift, on benign drift and on a feed bug", needless, 0)]
    for scenario in SCENARIOS:
        served = mean(c.served_error for c in of("panel", scenario))
        for rival in ("every 8,000", "score > 0.3"):
            against = mean(c.served_error for c in of(rival, scenario))
            found.append(Target(f"served error over that of '{rival}': {scenario}", served / against, 1.0))
    return found
