"""Tasks in what MCP clients and servers say: which ones a message names, which one it opens. Pure.

A task outlives the call that made it, and its id is all that it takes to read its result, to feed it or to cancel it.
Revision 2025-11-25 has tasks in its core (``result.task.taskId``), 2026-07-28 as the extension
``io.modelcontextprotocol/tasks`` (``resultType`` is ``task``, the id stands in the result itself).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from controlplane.tools.mcp_stream import result_of

LIST = "tasks/list"
KEY = b"taskId"


def tasks_named(method: str, params: Mapping[str, Any]) -> Iterator[object]:
    """The ids that a request names, of whatever type. A tool's own arguments name none."""
    if method == "tools/call":
        return
    if "taskId" in params:
        yield params["taskId"]
    asked_for = params.get("notifications")
    for holder in (params, asked_for if isinstance(asked_for, dict) else {}):
        many = holder.get("taskIds", [])
        yield from many if isinstance(many, list) else [many]


def task_opened(message: Any) -> str | None:
    """The id of the task that a server's answer hands out. What a tool says in its content hands out nothing."""
    result = result_of(message)
    task = result.get("task")
    handed = (task if isinstance(task, dict) else result).get("taskId")
    return handed if isinstance(handed, str) else None


def own_tasks(message: Any, is_own: Callable[[str], bool]) -> dict[str, Any] | None:
    """The answer to ``tasks/list`` without the tasks of others; None when nothing has to change."""
    result = result_of(message)
    if not isinstance(result.get("tasks"), list):
        return None
    own = [task for task in result["tasks"] if isinstance(task, dict) and is_own(str(task.get("taskId", "")))]
    return None if len(own) == len(result["tasks"]) else {**message, "result": {**result, "tasks": own}}
