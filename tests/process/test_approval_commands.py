"""`controlplane approvals` against a whole gateway: a call that waits is listed, answered, and goes out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result

from controlplane import fleet
from controlplane.cli import main
from tests.matrix.drivers import DRIVERS, Answer
from tests.matrix.test_approved import token_of, write_people
from tests.matrix.upstreams import Upstream
from tests.matrix.world import Gate, World, running

TOOL = next(driver for driver in DRIVERS if driver.name == "tools")
WHY = ("--reason", "the customer was charged twice")


@pytest.fixture
async def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Gate]:
    """Whatever an agent does needs two people."""
    monkeypatch.setattr(fleet, "DEPLOYMENT_CHECK_S", 3600)  # what reaches the upstream then is the agent's doing
    async with Upstream() as upstream:
        world = World(tmp_path, upstream)
        world.build()
        write_people(world, {"require_approval": {"by": "boss", "people": 2, "ttl_s": 600}})
        async with running(world, obligations=None) as gate:
            yield gate


async def ask(gate: Gate) -> Answer:
    return await TOOL.ask(gate, gate.world.tokens["good"])


async def run(gate: Gate, who: str, *arguments: str) -> Result:
    token = gate.world.folder / "token"
    token.write_text(token_of(gate.world, who) + "\n")
    where = ["--url", gate.url, "--token-file", str(token)]
    return await anyio.to_thread.run_sync(lambda: CliRunner().invoke(main, ["approvals", *arguments, *where]))


async def test_two_people_approve_at_their_terminals_and_the_call_goes_out(gate: Gate) -> None:
    assert (await run(gate, "user:ada", "list")).output == "no call waits for an approval\n"
    question = (await ask(gate)).receipt
    shown = (await run(gate, "user:ada", "list")).output
    for line in (
        f"{question}  waiting, until ",
        "  agent:good: call ",
        "  still needs 2 with role boss",
        '  |   "amount": 5',
    ):
        assert line in shown
    first = await run(gate, "user:ada", "approve", question, *WHY)
    assert (first.exit_code, "done; ledger entry " in first.output) == (0, True)
    assert "still needs 1 with role boss" in first.output
    assert f"user:ada agreed: {WHY[1]}" in (await run(gate, "user:bob", "list")).output
    second = await run(gate, "user:bob", "approve", question, *WHY)
    assert "approved, not used yet" in second.output
    assert gate.world.upstream.calls == []
    assert (await ask(gate)).status == 200
    over = await run(gate, "user:bob", "refuse", question, *WHY)
    assert (over.exit_code, "its time may be over, or it was used" in over.output) == (1, True)
    await gate.records(3)


async def test_who_cannot_answer_is_told_what_it_takes(gate: Gate) -> None:
    question = (await ask(gate)).receipt
    for who, arguments, said in (
        ("user:eve", ("approve", question, *WHY), "403 not_an_approver: this takes somebody who holds boss"),
        ("agent:good", ("approve", question, *WHY), "403 no_matching_rule: policy does not allow this"),
        ("user:ada", ("approve", "nothing", *WHY), "404 unknown_question: no such question stands"),
        ("user:ada", ("approve", question, "--reason", "  "), "422 invalid_request: body.reason: "),
    ):
        told = await run(gate, who, *arguments)
        assert (told.exit_code, said in told.output) == (1, True), told.output
    assert (await run(gate, "user:eve", "list")).output.endswith(
        "you cannot answer it: this takes somebody who holds boss\n"
    )
    await gate.records(1)


async def test_a_refusal_is_told_to_the_agent(gate: Gate) -> None:
    question = (await ask(gate)).receipt
    assert "refused, until " in (await run(gate, "user:ada", "refuse", question, *WHY)).output
    assert (await ask(gate)).reason == "approval_refused"
    again = await run(gate, "user:bob", "approve", question, *WHY)
    assert "409 already_refused: somebody has refused it" in again.output
    await gate.records(2)
