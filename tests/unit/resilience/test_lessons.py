"""The table of lessons knows every word that the rooms behind a breaker raise, and the words are stable."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from controlplane.resilience import breaker as module
from controlplane.resilience.breaker import Cause
from controlplane.resilience.lessons import LESSONS, Verdict, verdict_of
from inference.errors import BackendBroke, BackendRejected, BackendTimeout, BackendUnavailable
from inference.tfserving.backend import REJECTED

ROOT = Path(__file__).parents[3]
RAISED = {"BackendUnavailable", "BackendTimeout", "BackendBroke"}
BEHIND = [*(ROOT / "inference").rglob("*.py"), *(ROOT / "controlplane/tools").rglob("*.py")]
NOT_ON_THE_PATH = {"metrics_unknown", "metrics_unreadable", "models_unreadable", "probe_timeout"}
"""Of probes and of reading metrics: no call ends so."""
WHILE_A_DOOR_READS = {"invalid_reply"}
"""Raised by a door on a list that it rewrites, outside of every breaker."""


def raised_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id in RAISED and node.args and isinstance(node.args[0], ast.Constant):
            yield node.args[0].value


@pytest.mark.parametrize("path", BEHIND, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_reason_that_a_backend_gives_has_its_line(path: Path) -> None:
    assert set(raised_in(path)) - NOT_ON_THE_PATH - WHILE_A_DOOR_READS <= set(LESSONS)


def test_the_search_for_reasons_finds_them() -> None:
    found = {reason for path in BEHIND for reason in raised_in(path)}
    assert {"busy", "no_replica", "connect_failed", "unreachable", "server_down", "truncated"} <= found


def test_every_status_of_grpc_has_its_line() -> None:
    failures = {code.name.lower() for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
    assert failures - {name.lower() for name in REJECTED} - {"already_exists"} <= set(LESSONS)


def test_words_are_words() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", word) for word in (*LESSONS, *Cause))


def test_module_explains_every_word_a_breaker_can_say() -> None:
    explained = re.findall(r"^    ([a-z_]+)  +\w", module.__doc__ or "", re.MULTILINE)
    assert set(explained) == set(Cause)


@pytest.mark.parametrize("family", [BackendUnavailable, BackendTimeout, BackendBroke])
def test_unknown_reason_is_a_failure(family: type) -> None:
    assert verdict_of(family("never_heard_of")) is Verdict.FAILED


def test_rejection_teaches_nothing_whatever_its_word() -> None:
    assert verdict_of(BackendRejected("connect_failed")) is Verdict.TAUGHT_NOTHING
