"""`controlplane approvals`: calls that wait for people, and the answer, through the operator API of a gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from audit.visible import visible
from controlplane.operator_api import Api, gateway_url, operator_token

_question = click.argument("question")
_reason = click.option("--reason", required=True, help="Why, in a sentence; kept in the ledger.")


@click.group()
def approvals() -> None:
    """Answer agents whose calls wait for people."""


@approvals.command("list")
@gateway_url
@operator_token
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def list_command(url: str, token_file: Path, *, as_json: bool) -> None:
    """Show calls that wait, and those that were answered and not made yet."""
    found = Api(url, token_file).ask("/api/approvals", "questions")["questions"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for question in found:
        click.echo("\n  ".join(_lines(question)))
    if not found:
        click.echo("no call waits for an approval")


@approvals.command("approve")
@_question
@_reason
@gateway_url
@operator_token
def approve_command(question: str, reason: str, url: str, token_file: Path) -> None:
    """Agree to exactly this call, once."""
    _answer(Api(url, token_file), question, "approve", reason)


@approvals.command("refuse")
@_question
@_reason
@gateway_url
@operator_token
def refuse_command(question: str, reason: str, url: str, token_file: Path) -> None:
    """Refuse this call, or take an approval back that was not used yet."""
    _answer(Api(url, token_file), question, "refuse", reason)


def _answer(api: Api, question: str, answer: str, reason: str) -> None:
    api.tell(f"/api/approvals/{quote(question, safe='')}", {"answer": answer, "reason": reason})


def _lines(question: Mapping[str, Any]) -> list[str]:
    who = " through ".join(visible(name) for name in (question["subject"], *question["chain"]))
    until = datetime.fromtimestamp(question["until_s"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [f"{question['id']}  {question['state']} until {until}", f"{who}: {visible(question['resource'])}"]
    lines += [f"still needs {people} {role}" for role, people in question["missing"].items() if people]
    lines += [f"{visible(word['by'])} {_said(word)}: {visible(word['reason'])}" for word in question["words"]]
    lines += [visible(line) for line in question["shown"].split("\n") if line]
    return lines + ([f"you cannot answer it: {question['hindrance']}"] if question["hindrance"] else [])


def _said(word: Mapping[str, Any]) -> str:
    return "approved" if word["approves"] else "refused"
