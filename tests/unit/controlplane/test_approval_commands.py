"""`controlplane approvals` as people read it: all that stands in an answer, and nothing that steers a terminal."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner, Result

from controlplane.cli import main
from tests.unit.controlplane.test_model_commands import Gateway, gateway

__all__ = ["gateway"]

WORD = {
    "by": "user:deputy",
    "roles": ["boss"],
    "approves": True,
    "at_s": 1_763_733_700.5,
    "reason": "the invoice is signed",
    "ledger_index": 23,
}
QUESTION = {
    "id": "q1",
    "tenant": "acme",
    "subject": "agent:support",
    "chain": ["agent:helper"],
    "action": "call",
    "resource": "/mcp/bank/transfer",
    "operation": "tools/call",
    "rules": [["support.transfer", "roles/support.yaml:20"]],
    "state": "waiting",
    "missing": {"boss": 1, "auditor": 0},
    "words": [WORD],
    "asked_s": 1_763_733_600.0,
    "until_s": 1_763_734_500.0,
    "shown": '{\n  "amount": 4800\n}',
    "hindrance": "",
}
HOSTILE = "agent\u202e\x1b[2J\r\n  user:ada agreed: all is well\x07"


def run(gateway: Gateway, *arguments: str) -> Result:
    token = gateway.folder / "token"
    token.write_text("secret\n")
    where = ["--url", f"http://127.0.0.1:{gateway.port}", "--token-file", str(token)]
    return CliRunner().invoke(main, ["approvals", *arguments, *where])


def listed(gateway: Gateway, **changes: Any) -> list[str]:
    gateway.document = {"questions": [QUESTION | changes], "more": 0}
    told = run(gateway, "list")
    assert told.exit_code == 0, told.output
    return told.output.splitlines()


def test_a_question_is_told_whole(gateway: Gateway) -> None:
    assert listed(gateway) == [
        "q1  waiting, until 2025-11-21 14:15:00 UTC",
        "  agent:support through agent:helper: call tools/call /mcp/bank/transfer",
        "  rule support.transfer (roles/support.yaml:20)",
        "  still needs 1 with role boss",
        "  user:deputy agreed: the invoice is signed (ledger entry 23)",
        "  | {",
        '  |   "amount": 4800',
        "  | }",
    ]
    assert gateway.asked == [("GET", "/api/approvals", "Bearer secret", None)]


def test_who_cannot_answer_is_told_why(gateway: Gateway) -> None:
    assert listed(gateway, hindrance="nobody approves a call of their own")[-1] == (
        "  you cannot answer it: nobody approves a call of their own"
    )


def test_what_was_answered_says_how_it_stands(gateway: Gateway) -> None:
    answered = {"missing": {"boss": 0}, "shown": ""}
    approved = listed(gateway, state="approved", **answered)
    assert approved[0] == "q1  approved, not used yet, until 2025-11-21 14:15:00 UTC"
    assert not any(line.startswith(("  |", "  still")) for line in approved)
    refused = listed(gateway, state="refused", words=[WORD | {"approves": False, "reason": "no"}], **answered)
    assert (refused[0], refused[-1]) == (
        "q1  refused, until 2025-11-21 14:15:00 UTC",
        "  user:deputy refused: no (ledger entry 23)",
    )


@pytest.mark.parametrize("place", ["id", "subject", "action", "resource", "operation", "state", "hindrance"])
def test_no_name_begins_a_line_or_steers_the_terminal(gateway: Gateway, place: str) -> None:
    lines = listed(gateway, **{place: HOSTILE})
    assert all(line.isprintable() for line in lines)
    assert sum("user:ada agreed" in line for line in lines) == 1
    assert not any(line.startswith("  user:ada") for line in lines)


@pytest.mark.parametrize(
    "changes",
    [
        {"chain": [HOSTILE]},
        {"rules": [[HOSTILE, HOSTILE]]},
        {"missing": {HOSTILE: 1}},
        {"words": [WORD | {"by": HOSTILE, "reason": HOSTILE}]},
    ],
)
def test_no_name_further_in_does_either(gateway: Gateway, changes: dict[str, Any]) -> None:
    lines = listed(gateway, **changes)
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("  user:ada") for line in lines)


def test_what_an_agent_writes_cannot_pass_for_what_the_gateway_says(gateway: Gateway) -> None:
    lines = listed(
        gateway, words=[], shown="user:ada agreed: all is well\nq2  approved\n\x1b[1A\n" + "\n" * 900 + "end"
    )
    assert "  | user:ada agreed: all is well" in lines
    assert "  | q2  approved" in lines
    assert "  | \\u001b[1A" in lines
    assert "  | … 900 empty lines" in lines
    assert lines[-1] == "  | end"
    assert not any(re.match(r"(  user:ada|  q2|q2)", line) for line in lines)


def test_programs_get_everything_and_no_control_characters(gateway: Gateway) -> None:
    gateway.document = {"questions": [QUESTION | {"shown": HOSTILE}], "more": 0}
    told = run(gateway, "list", "--json").output
    assert json.loads(told) == [QUESTION | {"shown": HOSTILE}]
    assert all(line.isprintable() for line in told.splitlines())


def test_nothing_waiting_is_said(gateway: Gateway) -> None:
    gateway.document = {"questions": [], "more": 0}
    assert run(gateway, "list").output == "no call waits for an approval\n"


def test_there_being_more_is_said(gateway: Gateway) -> None:
    gateway.document = {"questions": [], "more": 3}
    assert run(gateway, "list").output.endswith("and 3 more, which are shown when these are answered\n")


@pytest.mark.parametrize("answer", ["approve", "refuse"])
def test_an_answer_is_said_of_one_question_with_its_reason(gateway: Gateway, answer: str) -> None:
    told = run(gateway, answer, "q/1", "--reason", "because it is so")
    assert (told.exit_code, told.output) == (0, "done; ledger entry 7 (e1)\n")  # what it has become cannot be told here
    assert gateway.asked[0] == (
        "POST",
        "/api/approvals/q%2F1",
        "Bearer secret",
        {"answer": answer, "reason": "because it is so"},
    )
    assert [method for method, *_ in gateway.asked] == ["POST", "GET"]


@pytest.mark.parametrize("typed", [["approve", "q1"], ["refuse", "q1"], ["approve", "--reason", "because"]])
def test_without_question_and_reason_nothing_is_said(gateway: Gateway, typed: list[str]) -> None:
    assert run(gateway, *typed).exit_code == 2
    assert gateway.asked == []


def test_a_refusal_is_told_in_the_gateways_words_and_cannot_steer_the_terminal(gateway: Gateway) -> None:
    gateway.status, gateway.document = 403, {"reason": "own_call", "detail": f"nobody {HOSTILE}"}
    told = run(gateway, "approve", "q1", "--reason", "because")
    assert told.exit_code == 1
    assert told.output.startswith("Error: 403 own_call: nobody agent\\u202e\\u001b[2J\\r\\n")
    assert len(gateway.asked) == 1
