"""What people may write into `adaptation.yaml`, and how a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.policy.bundle import build, read_files, revision_of
from controlplane.policy.documents import BundleError
from tests.unit.adaptation.rules import rule, shipped
from tests.unit.policy.bundles import Folder

MODEL = {"for_each": "model", "when": {"signal": "latency_p95_ms", "above": 500}}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"back_when": {"signal": "cpu_ratio", "below": 0.8}}, "no gap"),
        ({"back_when": {"signal": "cpu_ratio", "below": 0.9}}, "no gap"),
        ({"back_when": {"signal": "cpu_ratio", "above": 0.9}}, "well again"),
        ({"when": {"signal": "cpu_ratio", "below": 0.1}, "back_when": {"signal": "cpu_ratio", "above": 0.1}}, "no gap"),
        ({"back_when": None}, "back_when"),
        ({"for_each": "model", "then": "isolate"}, "nothing for a model"),
        ({"when": {"signal": "failed_checks", "at_least": 5}}, "no failed_checks"),
        ({"when": {"signal": "cpu_ratio"}}, "one of `above`"),
        ({"when": {"signal": "cpu_ratio", "above": 0.8, "below": 0.1}}, "one of `above`"),
        ({"when": {"all": [{"signal": "cpu_ratio", "above": 0.8}], "above": 1}}, "one of `above`"),
        ({"when": {}}, "one of `all`"),
        ({"when": {"signal": "cpu", "above": 0.8}}, "cpu_ratio"),
        ({"then": "explode"}, "throttle"),
        ({"then": "notify", "steps": 2}, "no steps"),
        ({"tasks": ["chat"]}, "only models"),
        ({"windows": 0}, "greater than or equal to 1"),
        ({"unless": "x"}, "unless"),
    ],
)
def test_rule_that_would_flap_or_mean_nothing_is_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        rule(**fields)


def test_every_signal_of_the_way_in_is_named_on_the_way_back() -> None:
    with pytest.raises(ValidationError, match="gpu_or_kv_ratio is well again"):
        rule(
            for_each="model",
            when={"all": [MODEL["when"], {"signal": "gpu_or_kv_ratio", "above": 0.85}]},
            back_when={"signal": "latency_p95_ms", "below": 400},
        )


def test_mistake_is_told_with_its_line(folder: Folder) -> None:
    folder.edit("adaptation.yaml", "when: {signal: cpu_ratio, above: 0.8}", "when: {signal: cpu, above: 0.8}")
    with pytest.raises(BundleError) as refused:
        build(read_files(folder.path))
    (problem,) = refused.value.problems
    line = next(
        number
        for number, text in enumerate((folder.path / "adaptation.yaml").read_text().splitlines(), 1)
        if "signal: cpu," in text
    )
    assert problem.source == f"adaptation.yaml:{line}"


def test_rule_id_stands_once(folder: Folder) -> None:
    folder.edit("adaptation.yaml", "id: breaker.notify", "id: cpu.throttle")
    with pytest.raises(BundleError, match=r"cpu\.throttle' is there already"):
        build(read_files(folder.path))


def test_bundle_without_the_file_adapts_nothing(folder: Folder) -> None:
    folder.remove("adaptation.yaml")
    assert build(read_files(folder.path)).adaptation.rules == []
    assert folder.policy().adaptation.rules == []


def test_its_bytes_are_part_of_the_revision(folder: Folder) -> None:
    before = revision_of(read_files(folder.path))
    folder.edit("adaptation.yaml", "above: 0.8}", "above: 0.81}")
    assert revision_of(read_files(folder.path)) != before


def test_reload_changes_the_rules_and_a_broken_file_leaves_the_last_good_ones(folder: Folder) -> None:
    policy = folder.policy()
    folder.edit("adaptation.yaml", "window_s: 10", "window_s: 5")
    assert policy.reload()
    assert policy.adaptation.window_s == 5
    folder.edit("adaptation.yaml", "window_s: 5", "window_s: soon")
    assert not policy.reload()
    assert policy.adaptation.window_s == 5


def test_shipped_rules_that_step_in_for_people_hold_for_a_while() -> None:
    for each in shipped().rules:
        if each.then in ("throttle", "lighter_tier", "restart"):
            assert each.hold_down_s >= 30
            assert each.back_windows >= 3
