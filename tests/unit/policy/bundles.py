"""Bundles for tests: the shipped one, copied and changed, so that every test starts from files that load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from controlplane.calls import Call, Decision, Principal
from controlplane.policy import BundlePolicy, PolicySettings

SHIPPED = Path(__file__).parents[3] / "policies"


class Clock:
    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Folder:
    """A copy of the shipped policies that a test may write to."""

    def __init__(self, root: Path) -> None:
        self.path = root / "policies"
        shutil.copytree(SHIPPED, self.path)

    def write(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.path / name).read_text()
        assert old in text, f"{old!r} is not in {name}"
        self.write(name, text.replace(old, new))

    def remove(self, name: str) -> None:
        (self.path / name).unlink()

    def policy(self, clock: Clock | None = None, **settings: Any) -> BundlePolicy:
        policy = BundlePolicy(PolicySettings(path=self.path, **settings), clock or Clock())
        policy.load()
        return policy


def ask(
    policy: BundlePolicy,
    who: str,
    action: str,
    resource: str,
    arguments: dict[str, Any] | None = None,
    *,
    now_s: float = 1000.0,
    **principal: Any,
) -> Decision:
    caller = Principal(subject=who, **{"tenant": "acme", **principal})
    call = Call(id="c", door="test", action=action, resource=resource, arguments=arguments or {})
    return policy.decide(caller, call, now_s)
