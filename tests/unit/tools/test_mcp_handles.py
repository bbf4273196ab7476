"""A session serves only the one who opened it."""

from __future__ import annotations

import pytest

from controlplane.calls import Principal
from controlplane.tools.mcp_handles import UNKNOWN_SESSION, McpHandles
from inference.errors import BackendRejected

ALICE = Principal(subject="alice", tenant="acme")
STRANGERS = [
    Principal(subject="bob", tenant="acme"),
    Principal(subject="alice", tenant="other"),
    Principal(subject="alice", tenant="acme", chain=("agent-x",)),
]


@pytest.fixture
def sessions() -> McpHandles:
    sessions = McpHandles(2, UNKNOWN_SESSION)
    sessions.opened("files", "s1", ALICE)
    return sessions


def test_the_opener_may_go_on(sessions: McpHandles) -> None:
    sessions.require("files", "s1", ALICE)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_knowing_the_id_is_not_enough(sessions: McpHandles, stranger: Principal) -> None:
    with pytest.raises(BackendRejected) as caught:
        sessions.require("files", "s1", stranger)
    assert caught.value.reason == "unknown_session"


def test_a_session_of_one_server_is_none_of_another(sessions: McpHandles) -> None:
    with pytest.raises(BackendRejected):
        sessions.require("mail", "s1", ALICE)


def test_naming_a_session_again_does_not_take_it_over(sessions: McpHandles) -> None:
    sessions.opened("files", "s1", STRANGERS[0])
    sessions.require("files", "s1", ALICE)


def test_a_closed_session_is_nobodys(sessions: McpHandles) -> None:
    sessions.closed("files", "s1")
    with pytest.raises(BackendRejected):
        sessions.require("files", "s1", ALICE)


def test_the_longest_idle_session_is_forgotten_first(sessions: McpHandles) -> None:
    sessions.opened("files", "s2", ALICE)
    sessions.require("files", "s1", ALICE)
    sessions.opened("files", "s3", ALICE)
    assert len(sessions) == 2
    sessions.require("files", "s1", ALICE)
    with pytest.raises(BackendRejected):
        sessions.require("files", "s2", ALICE)
