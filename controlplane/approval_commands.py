"""`controlplane approvals`: calls that wait for people, and the answer, through the operator API of a gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from audit.visible import visible, visible_lines
from controlplane.operator_api import Api, gateway_url, operator_token

QUESTIONS = "/api/approvals"

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
    """Show calls that wait, or were answered and not made yet.

    Of each: who wants what, by which rule, who must agree, who has, until when. What stands behind a bar (|) is the
    agent's: exactly what would go out.
    """
    said = Api(url, token_file).ask(QUESTIONS, "questions")
    found = said["questions"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for question in found:
        click.echo("\n  ".join(_lines(question)))
    if not found:
        click.echo("no call waits for an approval")
    if said["more"]:
        click.echo(f"and {said['more']} more, which are shown when these are answered")


@approvals.command("approve")
@_question
@_reason
@gateway_url
@operator_token
def approve_command(question: str, reason: str, url: str, token_file: Path) -> None:
    """Agree to exactly this call, once. QUESTION is an id that `controlplane approvals list` shows.

    The agent then repeats the call, and policy decides anew. You must hold a role that the rule names, and nobody
    approves a call of their own.
    """
    _answer(Api(url, token_file), question, "approve", reason)


@approvals.command("refuse")
@_question
@_reason
@gateway_url
@operator_token
def refuse_command(question: str, reason: str, url: str, token_file: Path) -> None:
    """Refuse this call, or take an approval back that was not used yet. One refusal is enough.

    QUESTION is an id that `controlplane approvals list` shows. You must hold a role that the rule names.
    """
    _answer(Api(url, token_file), question, "refuse", reason)


def _answer(api: Api, question: str, answer: str, reason: str) -> None:
    api.tell(f"{QUESTIONS}/{quote(question, safe='')}", {"answer": answer, "reason": reason})
    try:
        standing = api.ask(QUESTIONS, "questions")["questions"]
    except click.ClickException:
        return  # it has been said, and that is what was asked for
    for each in standing:
        if each["id"] == question:
            click.echo("\n".join((_state(each), *_needs(each))))


def _lines(question: Mapping[str, Any]) -> list[str]:
    who = " through ".join(visible(name) for name in (question["subject"], *question["chain"]))
    lines = [f"{visible(question['id'])}  {_state(question)}", f"{who}: {_what(question)}"]
    lines += [f"rule {visible(name)} ({visible(source)})" for name, source in question["rules"]]
    lines += _needs(question)
    lines += [_said(word) for word in question["words"]]
    lines += [f"| {line}".rstrip() for line in visible_lines(question["shown"]) if question["shown"]]
    return lines + ([f"you cannot answer it: {visible(question['hindrance'])}"] if question["hindrance"] else [])


def _state(question: Mapping[str, Any]) -> str:
    until = datetime.fromtimestamp(question["until_s"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    unused = ", not used yet" if question["state"] == "approved" else ""
    return f"{visible(question['state'])}{unused}, until {until}"


def _what(question: Mapping[str, Any]) -> str:
    return " ".join(visible(question[part]) for part in ("action", "operation", "resource") if question[part])


def _needs(question: Mapping[str, Any]) -> list[str]:
    if question["state"] != "waiting":
        return []
    return [f"still needs {people} with role {visible(role)}" for role, people in question["missing"].items() if people]


def _said(word: Mapping[str, Any]) -> str:
    said = "agreed" if word["approves"] else "refused"
    return f"{visible(word['by'])} {said}: {visible(word['reason'])} (ledger entry {word['ledger_index']})"
