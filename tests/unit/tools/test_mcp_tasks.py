"""Which tasks a message names, and which one an answer hands out."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.tools.mcp_tasks import own_tasks, task_opened, tasks_named


@pytest.mark.parametrize(
    ("method", "params", "named"),
    [
        ("tasks/get", {"taskId": "t1"}, ["t1"]),
        ("tasks/of-tomorrow", {"taskId": 7}, [7]),
        ("notifications/tasks/hurry", {"taskId": "t1"}, ["t1"]),
        ("subscriptions/listen", {"notifications": {"taskIds": ["t1", "t2"]}}, ["t1", "t2"]),
        ("subscriptions/listen", {"notifications": {"taskIds": "t1"}}, ["t1"]),
        ("tasks/list", {"taskIds": ["t3"]}, ["t3"]),
        ("tools/call", {"taskId": "JIRA-1"}, []),
        ("tools/list", {"notifications": 3}, []),
    ],
)
def test_the_tasks_that_a_request_names(method: str, params: dict[str, Any], named: list[object]) -> None:
    assert list(tasks_named(method, params)) == named


@pytest.mark.parametrize(
    ("result", "opened"),
    [
        ({"task": {"taskId": "t1", "status": "working"}}, "t1"),
        ({"resultType": "task", "taskId": "t1"}, "t1"),
        ({"content": [{"type": "text", "text": "taskId"}], "structuredContent": {"taskId": "t1"}}, None),
        ({"task": {"taskId": 7}}, None),
        ({"taskId": ["t1"]}, None),
        ([], None),
    ],
)
def test_the_task_that_an_answer_hands_out(result: Any, opened: str | None) -> None:
    assert task_opened({"jsonrpc": "2.0", "id": 1, "result": result}) == opened


def test_a_request_of_the_servers_hands_out_nothing() -> None:
    assert task_opened({"method": "elicitation/create", "params": {"taskId": "t1"}}) is None
    assert task_opened([{"result": {"taskId": "t1"}}]) is None


def test_a_list_shows_the_callers_own() -> None:
    message = {"id": 1, "result": {"tasks": [{"taskId": "t1"}, {"taskId": "t2", "x": 1}, "t3"], "nextCursor": "c"}}
    assert own_tasks(message, lambda task: task == "t2") == {
        "id": 1,
        "result": {"tasks": [{"taskId": "t2", "x": 1}], "nextCursor": "c"},
    }


def test_a_list_of_nothing_but_ones_own_stays_as_it_is() -> None:
    assert own_tasks({"result": {"tasks": [{"taskId": "t1"}]}}, lambda _: True) is None
    assert own_tasks({"result": {"tools": []}}, lambda _: False) is None
