"""The whole thin loop on real rows, with the real trainer, real SavedModels and a gateway that remembers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.drift.settings import ReportSettings, WatchSettings
from controlplane.monitor import Monitor, MonitorSettings, WatchedModel, monitor_of
from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.scoring import savedmodel_score
from controlplane.retraining.settings import PromotionSettings, TrainingSettings
from examples.risk_model import baseline, data, train
from inference.savedmodel import export_mlp

from .gateway_with_memory import RememberingGateway

pytest.importorskip("statsmodels", reason="the example's rows come inside the statsmodels wheel (extra: drift)")

ROWS_A_CALL, CALLS_A_TURN = 10, 5
score = savedmodel_score("x", "probabilities")


@pytest.fixture(scope="module")
def parts() -> data.Parts:
    return data.load()


@pytest.fixture(scope="module")
def first(parts: data.Parts) -> tuple[object, int]:
    layers = train.train(parts.training.inputs, parts.training.labels)
    return layers, train.errors(layers, parts.reference.inputs, parts.reference.labels)


@dataclass
class Survey:
    """Agents who ask about the survey's rows, and the truth that comes back."""

    path: Path
    monitor: Monitor
    gateway: RememberingGateway
    errors: list[tuple[str, int]] = field(default_factory=list)  # state when asked, wrong answers of ROWS_A_CALL

    async def ask_about(self, inputs: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        for start in range(0, len(inputs), ROWS_A_CALL):
            asked, truth = inputs[start : start + ROWS_A_CALL], labels[start : start + ROWS_A_CALL]
            gateway = self.gateway
            model = "light/1" if gateway.serves_fallback else f"risk/{gateway.version}"
            if gateway.canary is not None and gateway.tries_canary:
                model = f"risk/{gateway.canary[0]}"
            answers = score(self.path / "models" / model, asked)
            self.errors.append((str(self.gateway.state), int((answers != truth).sum())))
            self.gateway.answered(asked, answers, truth)
            if start % (CALLS_A_TURN * ROWS_A_CALL) == 0:
                await self.monitor.turn()
                await self.monitor.loops["risk"].settle()

    def error_while(self, *states: str) -> float:
        found = [wrong for state, wrong in self.errors if state in states]
        return sum(found) / (len(found) * ROWS_A_CALL)


@pytest.fixture
def survey(tmp_path: Path, parts: data.Parts, first: tuple[object, int]) -> Survey:
    layers, wrong = first
    names = {"feature_names": data.FEATURES, "class_names": data.CLASSES}
    export_mlp(tmp_path / "models/risk/1", layers, **names)  # type: ignore[arg-type]
    export_mlp(tmp_path / "models/light/1", baseline.train(parts.training), **names)
    settings = MonitorSettings(
        state_dir=tmp_path / "state",
        models_root=tmp_path / "models",
        report=ReportSettings(enabled=False),
        models=(
            WatchedModel(
                name="risk",
                feature_names=data.FEATURES,
                watch=WatchSettings(reference_rows=len(parts.reference.visits), reference_errors=wrong),
                training=TrainingSettings(
                    command=("{python}", "-m", "examples.risk_model.train", "rows", "{rows}", "{out}"),
                    code=(Path(train.__file__),),
                    rows_after_change=800,
                ),
                promotion=PromotionSettings(),
                acting=ActingSettings(fallback=tmp_path / "models/light/1", canary_rows=100),
            ),
        ),
    )
    gateway = RememberingGateway(beside=lambda version, rows: score(tmp_path / f"models/risk/{version}", rows))
    return Survey(tmp_path, monitor_of(settings, gateway), gateway)


async def test_a_change_of_concept_is_found_bridged_and_learnt(survey: Survey, parts: data.Parts) -> None:
    stream = parts.stream
    await survey.ask_about(stream.inputs[:2_000], stream.labels[:2_000])
    assert [move["to"] for move in survey.gateway.ledger] == ["HEALTHY"]
    asked = len(survey.errors)

    changed = stream.part(2_000, 4_500)
    await survey.ask_about(changed.inputs, data.concept_change(changed))
    await survey.monitor.close()
    assert [move["to"] for move in survey.gateway.ledger] == [
        "HEALTHY",
        "DEGRADED",
        "DEGRADED",
        "RETRAINING",
        "SHADOW",
        "CANARY",
        "CANARY",
        "CANARY",
        "PROMOTED",
        "HEALTHY",
    ]
    to_verdict = [state for state, _ in survey.errors[asked:]].index("DEGRADED") * ROWS_A_CALL
    assert to_verdict < 300
    degraded = survey.gateway.ledger[1]["evidence"]
    assert int(degraded["error_ppm"]) > 450_000

    champion_now = float(np.mean(score(survey.path / "models/risk/1", changed.inputs) != data.concept_change(changed)))
    bridged = survey.error_while("DEGRADED", "RETRAINING", "SHADOW")
    learnt = float(
        np.mean(score(survey.path / "models/risk/2", stream.inputs[5_000:]) != data.concept_change(stream)[5_000:])
    )
    assert learnt < 0.40 < bridged < 0.52 < champion_now
    manifest = json.loads((survey.path / "models/risk/2/provenance.json").read_text())
    assert manifest["metrics"]["training_rows"] > 400
    told = next(move for move in survey.gateway.ledger if move["reason"] == "trained")["evidence"]
    facts = ("runner", "parent_version", "data_sha256", "code_sha256", "data_rows")
    assert [told[name] for name in facts] == [manifest[name] for name in facts]
    assert told["metric_training_rows"] == manifest["metrics"]["training_rows"]


async def test_other_people_with_the_same_truth_retrain_nothing(survey: Survey, parts: data.Parts) -> None:
    await survey.ask_about(parts.stream.inputs[:1_000], parts.stream.labels[:1_000])
    shifted = data.benign_shift(parts.stream)
    await survey.ask_about(shifted.inputs, shifted.labels)
    await survey.monitor.close()
    assert [move["to"] for move in survey.gateway.ledger] == ["HEALTHY"]


async def test_nine_thousand_real_rows_without_a_change_raise_nothing(survey: Survey, parts: data.Parts) -> None:
    await survey.ask_about(parts.stream.inputs, parts.stream.labels)
    await survey.monitor.close()
    assert [move["to"] for move in survey.gateway.ledger] == ["HEALTHY"]
