"""The official MCP conformance suite finds the gateway transparent: it passes exactly what it passes without one.

Needs ``.venv-mcp`` (Node 22 and the suite from npm). Two servers stand behind the gateway: a small one of our own,
always, and the SDK's complete example, where ``MCP_EVERYTHING_SERVER`` names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.real.mcp_parts import conformance, gateway, node_tool, our_everything_server, sdk_everything_server

pytestmark = pytest.mark.real("mcp-conformance")
pytest.importorskip("mcp", reason="the mcp extra is not installed")

WANDERING = frozenset(
    {"outgoing-request", "incoming-response", "incoming-sse-event", "stream-closed"}
)  # logs, not checks
OURS = frozenset({"sep-2663-tasks-get-invalid-task-id-32602"})  # what the gateway says itself: a task is its caller's
StartServer = Callable[[], AbstractContextManager[str]]


def verdicts(found: Counter[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    return {key: count for key, count in found.items() if key[1] not in WANDERING | OURS and key[2] != "INFO"}


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
@pytest.mark.parametrize(
    ("start", "passed_at_least"),
    [
        pytest.param(our_everything_server, 60, id="our-server"),
        pytest.param(sdk_everything_server, 84, id="sdk-server"),
    ],
)
def test_the_suite_passes_through_the_gateway_what_it_passes_directly(
    start: StartServer, passed_at_least: int, revision: str, tmp_path: Path
) -> None:
    node_tool("conformance")
    with start() as url, gateway({"mcp_servers": [{"name": "all", "url": url}]}, tmp_path, "--shim") as running:
        direct = verdicts(conformance(url, revision, tmp_path / "direct"))
        found = conformance(f"{running.origin}/mcp/all", revision, tmp_path / "through")
    passed = sum(count for (_, _, status), count in direct.items() if status == "SUCCESS")
    print(f"{revision}: {passed} checks pass directly and through the gateway")  # noqa: T201  shown with -s
    assert passed >= passed_at_least
    assert verdicts(found) == direct
    assert {status for (_, check, status) in found if check in OURS} <= {"SUCCESS"}
