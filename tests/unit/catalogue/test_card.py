"""What a card may say, and what policy reads of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.policy.bundle import build, read_files
from inference.catalogue import Measured, ModelCard
from tests.unit.policy.bundles import Folder, ask

SHIPPED = Path(__file__).parents[3] / "policies"
MEASURED = {"dataset": "d", "metric": "accuracy", "value": 0.9}


@pytest.mark.parametrize(
    "said",
    [
        {"licenses": "MIT"},
        {"tier": "huge"},
        {"parameters": 0},
        {"parameters": "7b"},
        {"modalities": ["smell"]},
        {"quality": [{"metric": "accuracy", "value": 0.9}]},
        {"quality": [MEASURED | {"value": float("nan")}]},
        {"quality": [MEASURED | {"measured_on": "last week"}]},
        {"latency": {"p50_ms": 12.0}},
    ],
)
def test_a_card_that_says_something_else_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelCard.model_validate(said)


def test_a_choice_rests_on_the_first_ratio_measured_for_the_task() -> None:
    card = ModelCard(
        quality=[
            Measured(dataset="a", metric="perplexity", value=0.5),
            Measured(dataset="b", metric="accuracy", value=91.0),
            Measured(dataset="c", metric="f1", value=0.7, task="extraction"),
            Measured(dataset="d", metric="accuracy", value=0.8),
            Measured(dataset="e", metric="accuracy", value=0.9),
        ]
    )
    found = card.quality_for("chat", "chat")
    assert found is not None
    assert found.dataset == "d"
    assert card.quality_for("translation", "chat") is None


def test_a_card_gives_policy_only_what_it_says() -> None:
    assert ModelCard().attributes == {}
    said = ModelCard(licence="MIT", languages=["nb", "en"], tier="small").attributes
    assert said == {"licence": "MIT", "languages": ("nb", "en"), "tier": "small"}


def test_the_shipped_cards_claim_no_quality_that_nobody_measured() -> None:
    models = build(read_files(SHIPPED)).catalogue.models
    assert {name: entry.card.quality_for(entry.task, entry.task) is None for name, entry in models.items()} == {
        "risk": False,
        "risk-baseline": False,
        "tiny": True,
    }
    for entry in models.values():
        assert all(one.n and one.measured_on for one in entry.card.quality)


RULE = """role: analyst
rules:
  - id: analyst.licensed
    on: /model/*
    do: infer
    effect: allow
    when: {when}
"""


@pytest.mark.parametrize(
    ("when", "model", "reason"),
    [
        ("r.obj.licence == 'Apache-2.0'", "risk", "granted"),
        ("r.obj.licence == 'MIT'", "risk", "no_matching_rule"),
        ("r.obj.tier == 'builtin'", "risk", "granted"),
        ("r.obj.tier == 'builtin'", "tiny", "no_matching_rule"),
        ("\"'nb' in r.obj.languages\"", "tiny", "condition_error"),
        ("r.obj.licence != 'MIT'", "unheard-of", "condition_error"),
        ("has(r.obj.languages) && 'nb' in r.obj.languages", "tiny", "no_matching_rule"),
    ],
)
def test_a_rule_may_read_the_card_and_what_it_leaves_out_denies(
    tmp_path: Path, when: str, model: str, reason: str
) -> None:
    folder = Folder(tmp_path)
    folder.write("roles/analyst.yaml", RULE.format(when=when))
    assert ask(folder.policy(), "agent:analyst", "infer", f"/model/{model}").reason == reason


def test_a_rule_that_names_a_tier_that_cannot_be_does_not_load(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("roles/analyst.yaml", RULE.format(when="r.obj.tier == 'medium'"))
    assert "never 'medium'" in folder.policy().status().error
