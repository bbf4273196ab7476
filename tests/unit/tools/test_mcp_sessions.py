"""A session serves only the one who opened it."""

from __future__ import annotations

import pytest

from controlplane.calls import Principal
from controlplane.tools.mcp_sessions import McpSessions
from inference.errors import BackendRejected

ALICE = Principal(subject="alice", tenant="acme")
STRANGERS = [
    Principal(subject="bob", tenant="acme"),
    Principal(subject="alice", tenant="other"),
    Principal(subject="alice", tenant="acme", chain=("agent-x",)),
]


@pytest.fixture
def sessions() -> McpSessions:
    sessions = McpSessions(limit=2)
    sessions.opened("files", "s1", ALICE)
    return sessions


def test_the_opener_may_go_on(sessions: McpSessions) -> None:
    sessions.require("files", "s1", ALICE)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_knowing_the_id_is_not_enough(sessions: McpSessions, stranger: Principal) -> None:
    with pytest.raises(BackendRejected) as caught:
        sessions.require("files", "s1", stranger)
    assert caught.value.reason == "unknown_session"


def test_a_session_of_one_server_is_none_of_another(sessions: McpSessions) -> None:
    with pytest.raises(BackendRejected):
        sessions.require("mail", "s1", ALICE)


def test_naming_a_session_again_does_not_take_it_over(sessions: McpSessions) -> None:
    sessions.opened("files", "s1", STRANGERS[0])
    sessions.require("files", "s1", ALICE)


def test_a_closed_session_is_nobodys(sessions: McpSessions) -> None:
    sessions.closed("files", "s1")
    with pytest.raises(BackendRejected):
        sessions.require("files", "s1", ALICE)


def test_the_longest_idle_session_is_forgotten_first(sessions: McpSessions) -> None:
    sessions.opened("files", "s2", ALICE)
    sessions.require("files", "s1", ALICE)
    sessions.opened("files", "s3", ALICE)
    assert len(sessions) == 2
    sessions.require("files", "s1", ALICE)
    with pytest.raises(BackendRejected):
        sessions.require("files", "s2", ALICE)
