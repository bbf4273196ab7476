"""What is chosen among models, and what the choice learns."""

from __future__ import annotations

from controlplane.telemetry.inventory import Inventory, fails_open


class ChoiceMetrics(Inventory):
    def _declare_choices(self) -> None:
        self._selections = self._counter(
            "selections_total", "Models chosen for a task: as the best, as the only one, or to try.", "model", "why"
        )
        self._feedback = self._counter("feedback_total", "Judged answers that the choice has learnt from.", "model")
        self._feedback_score = self._counter(
            "feedback_score_total", "Sum of their scores, each between 0 (wrong) and 1 (right).", "model"
        )
        self._selection_reviews = self._gauge(
            "selection_reviews", "Models that are not chosen until a person has looked at them."
        )

    @fails_open
    def observe_selection(self, *, model: str, why: str) -> None:
        self._selections.child(model, why).inc()

    @fails_open
    def observe_feedback(self, *, model: str, score: float) -> None:
        self._feedback.child(model).inc()
        self._feedback_score.child(model).inc(score)

    @fails_open
    def observe_selection_reviews(self, count: int) -> None:
        self._selection_reviews.child().set(count)
