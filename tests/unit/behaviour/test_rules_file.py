"""What people may write into `behaviour.yaml`, and how a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.policy.behaviour import BehaviourFile, seconds_of
from controlplane.policy.bundle import build, read_files, revision_of
from controlplane.policy.documents import BundleError
from controlplane.policy.lint import lint
from tests.unit.policy.bundles import Folder

SEQUENCE = {"id": "a.b", "after": {"do": "read"}, "then": {"do": "call"}, "within": "session", "answer": "block"}
LOOP = {"id": "a.b", "same_call": 5, "answer": "alert"}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("kind", "rule", "word"),
    [
        ("sequences", SEQUENCE | {"within": "soon"}, "90s or 10m"),
        ("sequences", SEQUENCE | {"within": "25h"}, "up to 24h"),
        ("sequences", SEQUENCE | {"answer": "explode"}, "throttle"),
        ("sequences", SEQUENCE | {"answer": "throttle"}, "needs a time"),
        ("sequences", SEQUENCE | {"after": []}, "no sequence"),
        ("sequences", SEQUENCE | {"then": {"do": "fly"}}, "'fly' is none of"),
        ("sequences", SEQUENCE | {"then": {"do": []}}, "names no action"),
        ("sequences", SEQUENCE | {"then": {"on": "tool/x"}}, "does not start with"),
        ("sequences", SEQUENCE | {"then": {"on": "/tool/[a-z]+"}}, "neither a plain segment"),
        ("sequences", SEQUENCE | {"then": {"labels": ["x"], "label": "y"}}, "label"),
        ("sequences", SEQUENCE | {"then": {"cost_tier": ["huge"]}}, "cost_tier"),
        ("sequences", SEQUENCE | {"then": {"times": 0}}, "greater than or equal"),
        ("sequences", SEQUENCE | {"unless": {"do": "call", "times": 2}}, "times"),
        ("sequences", SEQUENCE | {"after": [{"do": "read"}] * 8}, "eight steps"),
        ("sequences", SEQUENCE | {"mode": "shadow"}, "dry_run"),
        ("loops", LOOP | {"same_call": None}, "same_call"),
        ("loops", LOOP | {"same_call": 1}, "greater than or equal"),
        ("loops", LOOP | {"answer": "throttle"}, "does not end by waiting"),
        ("loops", LOOP | {"cycle": {"longest": 1}}, "greater than or equal"),
        ("rates", {"id": "a.b", "tail": 0.5}, "less than"),
        ("rates", {"id": "a.b", "limit": "mean"}, "mean_sigma"),
        ("rates", {"id": "a.b", "back_ratio": 1.0}, "less than"),
        ("rates", {"id": "Bad Id"}, "pattern"),
        ("contexts", {"id": "a.b", "answer": "throttle"}, "no faster"),
        ("contexts", {"id": "a.b", "learn_calls": 100}, "more `learn_calls`"),
    ],
)
def test_rule_that_means_nothing_is_refused(kind: str, rule: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        BehaviourFile.model_validate({kind: [rule]})


def test_mistake_is_told_with_its_line(folder: Folder) -> None:
    assert problems(folder, "within: session", "within: sessions") == [line_of(folder, "within: sessions")]


def test_label_that_nothing_has_refuses_the_bundle(folder: Folder) -> None:
    """A rule that is misspelt would protect nobody and say nothing."""
    text = "then: {do: call, labels: [payment]}"
    assert problems(folder, "then: {do: call, labels: [payments]}", text) == [line_of(folder, text)]


def test_step_up_without_anything_to_show_refuses_the_bundle(folder: Folder) -> None:
    found = problems(folder, "step_up: {max_age_s: 300}", "step_up: {}")
    assert line_of(folder, "id: context.unlike") in found


def test_rule_id_stands_once(folder: Folder) -> None:
    assert problems(folder, "id: loop.same-call", "id: rate.habit") == [line_of(folder, "- id: rate.habit", last=True)]


def test_bundle_without_the_file_watches_nothing(folder: Folder) -> None:
    folder.remove("behaviour.yaml")
    assert build(read_files(folder.path)).behaviour.file.rules == ()
    assert folder.policy().behaviour.file.rules == ()


def test_its_bytes_are_part_of_the_revision(folder: Folder) -> None:
    before = revision_of(read_files(folder.path))
    folder.edit("behaviour.yaml", "within: 10m", "within: 11m")
    assert revision_of(read_files(folder.path)) != before


def test_a_broken_file_leaves_the_last_good_rules(folder: Folder) -> None:
    policy = folder.policy()
    before = policy.behaviour
    assert before.file.rules
    folder.edit("behaviour.yaml", "within: session", "within: sessions")
    assert not policy.reload()
    assert policy.behaviour is before
    assert "behaviour.yaml" in policy.status().error


def test_every_shipped_rule_knows_its_place(folder: Folder) -> None:
    behaviour = folder.policy().behaviour
    for rule in behaviour.file.rules:
        assert behaviour.sources[rule.id] == line_of(folder, f"id: {rule.id}")
    assert not [one for one in lint(folder.path).warnings if one.source.startswith("behaviour.yaml")]


def test_lint_warns_of_what_an_agent_can_get_around(folder: Folder) -> None:
    folder.edit("behaviour.yaml", "    within: session", "    within: run")
    folder.edit("behaviour.yaml", "then: {do: call, labels: [payments]}", "then: {do: call, on: /tool/refunds}")
    told = [one.message for one in lint(folder.path).warnings if one.source.startswith("behaviour.yaml")]
    assert any("say `session`" in one for one in told)
    assert any("/tool/refunds" in one for one in told)


@pytest.mark.parametrize(
    ("span", "seconds"), [("90s", 90), ("10m", 600), ("24h", 86400), ("0s", 0), ("1d", 0), ("", 0)]
)
def test_spans(span: str, seconds: int) -> None:
    assert seconds_of(span) == seconds


def problems(folder: Folder, old: str, new: str) -> list[str]:
    folder.edit("behaviour.yaml", old, new)
    with pytest.raises(BundleError) as refused:
        build(read_files(folder.path))
    return [problem.source for problem in refused.value.problems]


def line_of(folder: Folder, text: str, *, last: bool = False) -> str:
    lines = (folder.path / "behaviour.yaml").read_text().splitlines()
    found = [number for number, line in enumerate(lines, 1) if text in line]
    return f"behaviour.yaml:{found[-1 if last else 0]}"
