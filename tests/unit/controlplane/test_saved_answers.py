"""Which version the response cache may speak for."""

from __future__ import annotations

import pytest

from controlplane.clock import Clock
from controlplane.policy import Catalogue, ModelEntry
from controlplane.resilience.breakers import Breakers
from controlplane.resilience.settings import BreakerSettings
from controlplane.response_cache import ResponseCacheSettings
from controlplane.saved_answers import VersionSpokenFor, cache_parts
from controlplane.telemetry.metrics import Metrics
from inference.backend import BackendRequest
from inference.errors import BackendRejected

ENTRY = {"task": "chat", "sensitivity": 1, "side_effect": "read", "cost_tier": "low", "owner": "acme"}
CATALOGUE = Catalogue(
    models={
        name: ModelEntry.model_validate(ENTRY | {"name": name, "backend": name}) for name in ("risk", "tiny", "far")
    }
)


class Versions:
    stable = 2

    def resolve(self, model: str, version: int | None = None, label: str | None = None) -> int:
        if label == "unheard-of":
            raise BackendRejected("invalid_argument")
        return version or self.stable


def asked(model: str, **more: object) -> BackendRequest:
    return BackendRequest(call_id="1", target=model, operation="Predict", **more)  # type: ignore[arg-type]  # any field


@pytest.fixture
def breakers() -> Breakers:
    return Breakers(lambda target: BreakerSettings(), lambda: 0.0)


@pytest.fixture
def spoken_for(breakers: Breakers) -> VersionSpokenFor:
    versions = Versions()
    return VersionSpokenFor(
        lambda model: versions if model == "risk" else None,
        lambda request: versions.resolve(request.target, request.version, request.label),
        lambda: CATALOGUE,
        {"tiny": "http://one/v1 Qwen/tiny"},
        breakers,
    )


def test_a_label_or_nothing_means_the_version_it_points_at_now(spoken_for: VersionSpokenFor) -> None:
    assert spoken_for(asked("risk")) == spoken_for(asked("risk", label="stable")) == "2"
    assert spoken_for(asked("risk", version=1)) == "1"


@pytest.mark.parametrize("request_", [asked("risk", label="unheard-of"), asked("nobody"), asked("far")])
def test_what_cannot_be_told_is_spoken_for_by_nobody(spoken_for: VersionSpokenFor, request_: BackendRequest) -> None:
    assert spoken_for(request_) is None


def test_a_server_without_versions_is_told_by_what_it_serves(spoken_for: VersionSpokenFor) -> None:
    assert spoken_for(asked("tiny")) == "served by http://one/v1 Qwen/tiny"


def test_a_version_that_somebody_holds_is_not_believed_from_memory_either(
    spoken_for: VersionSpokenFor, breakers: Breakers
) -> None:
    breakers.hold("risk/2", "drift")
    breakers.hold("tiny", "operator")
    assert spoken_for(asked("risk")) is spoken_for(asked("tiny")) is None
    assert spoken_for(asked("risk", version=1)) == "1"


def test_a_shared_store_needs_the_shared_secret(spoken_for: VersionSpokenFor) -> None:
    settings = ResponseCacheSettings()
    one, other = (cache_parts(settings, spoken_for, Metrics(), Clock()) for _ in range(2))
    assert one.secret != other.secret
    with pytest.raises(ValueError, match="secret"):
        cache_parts(settings, spoken_for, Metrics(), Clock(), shared=object())  # type: ignore[arg-type]  # never asked
