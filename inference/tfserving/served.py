"""One model as it shall be served: versions, labels, who gets the canary, what is shadowed, what was stable before.

Pure: every change gives another ``Served``. The text in the file is read back to an equal one; what an older release
left out has its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

STABLE, CANARY = "stable", "canary"
REMEMBERED = 10  # how many times one can roll back


@dataclass(frozen=True, slots=True)
class Shadow:
    """``percent`` of the calls are copied to ``version``; nobody sees the copies' answers.

    A version ``on_trial`` is loaded for copies alone: until a label names it, nobody gets it by its number either.
    """

    version: int
    percent: int
    on_trial: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """``base_path`` is as the server sees it, ``versions`` ascend, ``labels`` map a name to a version.

    ``previous`` are the versions that the default label named before, the newest last.
    """

    base_path: str
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    canary_percent: int = 0
    shadow: Shadow | None = None
    previous: tuple[int, ...] = ()

    def with_version(self, version: int) -> Served:
        return replace(self, versions=tuple(sorted({*self.versions, version})))

    def without_version(self, version: int) -> Served:
        return replace(self, versions=tuple(number for number in self.versions if number != version))

    def with_label(self, label: str, version: int, default: str = STABLE) -> Served:
        """A canary or shadow that becomes the default ends being one, and what gets any label is on trial no more."""
        moved = replace(self, labels={**self.labels, label: version})
        if label != default:
            return replace(moved, shadow=None) if self.is_on_trial(version) else moved
        old = self.labels.get(default)
        previous = self.previous if old in (None, version) else (*self.previous, old)[-REMEMBERED:]
        return replace(moved.without_canary(version), previous=previous)

    def rolled_back(self, default: str = STABLE) -> Served:
        """The default label back on what it named before; no canary and no shadow until somebody asks again.

        There must be something in ``previous``.
        """
        labels = {**self.labels, default: self.previous[-1]}
        return replace(self, labels=labels, previous=self.previous[:-1], canary_percent=0, shadow=None)

    def without_canary(self, version: int) -> Served:
        """No agent is given ``version`` by its share, and nothing is copied to it; its label stays."""
        percent = 0 if self.labels.get(CANARY) == version else self.canary_percent
        shadow = None if self.shadow is not None and self.shadow.version == version else self.shadow
        return replace(self, canary_percent=percent, shadow=shadow)

    def without_canary_label(self, version: int) -> Served:
        kept = {label: number for label, number in self.labels.items() if (label, number) != (CANARY, version)}
        return replace(self, labels=kept)

    def is_on_trial(self, version: int) -> bool:
        tried = self.shadow is not None and self.shadow.on_trial and self.shadow.version == version
        return tried and version not in self.labels.values()

    def uses_of(self, version: int) -> list[str]:
        """What still needs ``version``."""
        uses = [f"label {label}" for label, number in self.labels.items() if number == version]
        return uses + (["shadow traffic"] if self.shadow is not None and self.shadow.version == version else [])

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"versions": list(self.versions), "labels": dict(self.labels)}
        if self.canary_percent:
            said["canary_percent"] = self.canary_percent
        if self.shadow is not None:
            said["shadow"] = {"version": self.shadow.version, "percent": self.shadow.percent}
            if self.shadow.on_trial:
                said["shadow"]["on_trial"] = True
        if self.previous:
            said["previous"] = list(self.previous)
        return said


def served_from(base_path: str, said: Mapping[str, Any]) -> Served:
    shadow = said.get("shadow")
    return Served(
        base_path,
        tuple(said.get("versions", ())),
        dict(said.get("labels", {})),
        int(said.get("canary_percent", 0)),
        None if shadow is None else Shadow(shadow["version"], shadow["percent"], shadow.get("on_trial", False)),
        tuple(said.get("previous", ())),
    )
