"""When a person must look at a model before it is chosen again.

The rule, for one task of one tenant: a model is *down* when its accuracy over the last ``review_answers`` judged
answers is certainly below ``1 - review_drop_ratio`` of its reference (the upper end of a one-sided 95 % interval is).
The reference is the card's measurement, or the accuracy over the first ``review_answers`` answers where the card has
none. A model that is down and chosen as the best ``review_choices`` times in a row is under review and leaves the
choice. Trying out is no choice and interrupts nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from inference.selection.evidence import Judged, Key
from inference.selection.settings import SelectionSettings

ONE_SIDED_95 = 1.645


@dataclass(frozen=True, slots=True)
class Review:
    """Why a person must look. Accuracies in millionths, as the ledger has no fractions."""

    tenant: str
    task: str
    model: str
    reference_ppm: int
    accuracy_ppm: int
    answers: int
    choices: int

    @property
    def key(self) -> Key:
        return self.tenant, self.task, self.model


def is_down(judged: Judged | None, settings: SelectionSettings) -> bool:
    if judged is None or judged.reference is None or judged.answers < settings.review_answers:
        return False
    mean, weight = judged.recent.mean, judged.recent.weight
    upper = mean + ONE_SIDED_95 * math.sqrt(max(mean * (1.0 - mean), 0.0) / weight)
    return upper < judged.reference * (1.0 - settings.review_drop_ratio)


class Strikes:
    """Choices in a row of a model that is down, by tenant and task."""

    def __init__(self, settings: SelectionSettings) -> None:
        self._settings = settings
        self._counts: dict[tuple[str, str], tuple[str, int]] = {}

    def count(self, key: Key, judged: Judged | None) -> Review | None:
        """Note that the model of ``key`` was chosen as the best; a review when that was once too often."""
        tenant, task, model = key
        if judged is None or not is_down(judged, self._settings):
            if self._counts:
                self._counts.pop((tenant, task), None)
            return None
        before, times = self._counts.get((tenant, task), (model, 0))
        times = times + 1 if before == model else 1
        self._counts[tenant, task] = model, times
        if times < self._settings.review_choices:
            return None
        del self._counts[tenant, task]
        return Review(
            tenant,
            task,
            model,
            reference_ppm=round((judged.reference or 0.0) * 1e6),
            accuracy_ppm=round(judged.recent.mean * 1e6),
            answers=judged.answers,
            choices=times,
        )
