"""Which calls a selector means. Compiled once for a bundle; asked once for each action and path, then remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from controlplane.policy import Catalogue
from controlplane.policy.behaviour import Selector, listed
from controlplane.policy.resources import Pattern, is_valid_path, segments_of

THINGS = frozenset({"model", "tool", "mcp"})


class Deed(NamedTuple):
    """What a call does, as far as the catalogue tells."""

    action: str
    path: str


Means = Callable[[Deed], bool]


def compiled(selector: Selector, catalogue: Catalogue, *, forgives: bool = False) -> Means:
    """``forgives``: the selector lets something go, so that what is not listed must not match it by being unknown."""
    actions = frozenset(listed(selector.do))
    patterns = [Pattern.parse(text) for text in listed(selector.on)]

    def means(deed: Deed) -> bool:
        if "*" not in actions and deed.action not in actions:
            return False
        if not is_valid_path(deed.path):
            return False
        segments = segments_of(deed.path)
        if patterns and not any(pattern.matches(deed.path, segments) for pattern in patterns):
            return False
        if not _asks_attributes(selector):
            return True
        return _has_attributes(selector, catalogue, deed.path, segments, forgives=forgives)

    return means


def _asks_attributes(selector: Selector) -> bool:
    return bool(selector.labels or selector.min_sensitivity is not None or selector.side_effect or selector.cost_tier)


def _has_attributes(
    selector: Selector, catalogue: Catalogue, path: str, segments: tuple[str, ...], *, forgives: bool
) -> bool:
    attributes = catalogue.resource(path).attributes
    if not attributes["listed"]:
        # Lists and doors (`/model`, `/feedback`) are no things and have no attributes.
        return not forgives and segments[0] in THINGS and len(segments) > 1
    return (
        (not selector.labels or not set(selector.labels).isdisjoint(attributes["labels"]))
        and (selector.min_sensitivity is None or attributes["sensitivity"] >= selector.min_sensitivity)
        and (not selector.side_effect or attributes["side_effect"] in selector.side_effect)
        and (not selector.cost_tier or attributes["cost_tier"] in selector.cost_tier)
    )
