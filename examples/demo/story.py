"""The story: what an agent may do, what it may not, what happens when things break, and when a model goes wrong."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from numpy.typing import NDArray
from openai import AsyncOpenAI

from audit import LedgerReader
from audit.verify import verify
from examples.demo.agents import Answer, GrpcAgent, HttpAgent, mcp_tools_and_time
from examples.demo.cast import start_model_server
from examples.demo.parts import Parts
from examples.demo.stage import Stage
from examples.demo.terminal import Terminal
from examples.risk_model.data import Rows, concept_change, load

BATCH_ROWS = 50
LOOP_LIMIT_S = 300.0


@dataclass
class Story:
    stage: Stage
    parts: Parts
    terminal: Terminal
    analyst: GrpcAgent
    north: GrpcAgent
    support: HttpAgent
    operator: HttpAgent
    finance: HttpAgent
    rows: Rows
    _canary_answers: int = 0

    async def tell(self) -> None:
        await self.allowed()
        await self.refused()
        await self.approved()
        await self.language_model()
        await self.outage()
        await self.drift()
        self.ledger()

    # --- chapters

    async def allowed(self) -> None:
        out = self.terminal
        out.chapter("An agent predicts and uses tools")
        answer = await self.analyst.predict(self.rows.inputs[:3])
        out.check(answer.status == 0 and answer.served_by == "risk/1", "a TF Serving gRPC client gets its prediction")
        out.detail(f"3 rows → classes {list(answer.classes)}, served by {answer.served_by}, call {answer.call_id}")
        tools, now, _ = await mcp_tools_and_time(self.stage.url, self.stage.tokens["analyst"])
        out.check("datetime" in now, "the official MCP SDK lists and calls an unmodified MCP server")
        out.detail(f"analyst sees {tools}")
        status, said = await self.support.post("/tools/refund", {"order": "A-17", "amount": 40})
        out.check(status == 200 and said["amount"] == 40, "a refund of 40 passes, with the gateway's own key upstream")

    async def refused(self) -> None:
        out = self.terminal
        out.chapter("Policy says no, and says why")
        status, said = await self.support.post("/tools/refund", {"order": "A-18", "amount": 5000})
        rule = (said.get("rules") or [{"id": "?", "source": "?"}])[0]
        out.check(status == 403 and rule["id"] == "support.refund.huge", "a refund of 5000 is denied by its argument")
        out.detail(f"rule {rule['id']} at policies/{rule['source']}, ledger entry {said.get('ledger_index')}")
        small = [await self.support.post("/tools/refund", {"order": f"B-{n}", "amount": 5}) for n in range(5)]
        out.check([status for status, _ in small] == [200] * 4 + [429], "the sixth refund within a minute has to wait")
        tools, _, refusal = await mcp_tools_and_time(self.stage.url, self.stage.tokens["support"])
        out.check("Denied by policy" in refusal, "an MCP tool call is denied in words that a model can read")
        out.check(tools == ["get_current_time"], "tools/list shows support only the tool it may call")
        out.detail(refusal)
        forged = self.stage.tokens["support"][:-8] + "forgedAA"
        stranger = HttpAgent(self.stage.url, forged, self.support.session)
        before = self._entries()
        status, said = await stranger.post("/tools/refund", {"order": "A-19", "amount": 1})
        out.check(status == 401 and self._entries() == before, "a forged token gets 401 and fills no ledger")

    async def approved(self) -> None:
        out = self.terminal
        out.chapter("A large refund waits for a person")
        wish = {"order": "A-21", "amount": 400}
        status, said = await self.support.post("/tools/refund", wish)
        question = said.get("require_approval", {}).get("id", "")
        waits = (status, said.get("reason")) == (403, "approval_required") and question != ""
        out.check(waits, "a refund of 400 does not go out until finance agrees")
        out.detail(str(said.get("detail")))
        answer = {"answer": "approve", "reason": "the parcel came back damaged"}
        status, _ = await self.operator.post(f"/api/approvals/{question}", answer)
        out.check(status == 403, "who does not hold the role cannot agree, operators neither")
        _, inbox = await self.finance.get("/api/approvals")
        shown = [json.loads(each["shown"]) for each in inbox["questions"] if each["id"] == question]
        status, agreed = await self.finance.post(f"/api/approvals/{question}", answer)
        out.check((shown, status) == ([wish], 200), "a person of finance sees exactly what would go out, and agrees")
        out.detail(f"{wish}, on record as ledger entry {agreed.get('ledger_index')}")
        status, said = await self.support.post("/tools/refund", wish | {"amount": 401})
        out.check((status, said.get("reason")) == (403, "approval_required"), "one of 401 is another refund, and waits")
        status, said = await self.support.post("/tools/refund", wish)
        out.check((status, said.get("amount")) == (200, 400), "the same call, sent again, is paid")
        status, said = await self.support.post("/tools/refund", wish)
        again = said.get("require_approval", {}).get("id", "")
        out.check(status == 403 and again not in ("", question), "a third time it waits: an approval is used once")

    async def language_model(self) -> None:
        if not self.stage.llm_url:
            return
        out = self.terminal
        out.chapter("A language model, through the official openai SDK")
        client = AsyncOpenAI(base_url=f"{self.stage.url}/v1", api_key=self.stage.tokens["analyst"])
        messages = [{"role": "user", "content": "Say something."}]
        plain = await client.chat.completions.create(model="tiny", messages=messages)
        out.check(bool(plain.choices), f"a plain chat answers ({plain.usage.completion_tokens} tokens)")
        chunks = 0
        async for _ in await client.chat.completions.create(model="tiny", messages=messages, stream=True):
            chunks += 1
        out.check(chunks > 1, f"a streamed chat arrives in {chunks} pieces")

    async def outage(self) -> None:
        out = self.terminal
        out.chapter("The model server dies")
        known = self.rows.inputs[:1]
        await self.analyst.predict(known)
        self.parts.running["model-server"].stop()
        cached = await self.analyst.predict(known)
        out.check(cached.rung == "cache", "the same question gets the remembered answer, marked as such")
        light = await self._until_breaker("open")
        out.check(light, "after failures in a row the breaker opens")
        fallen = await self.analyst.predict(self.rows.inputs[7:9])
        out.check(fallen.rung == "lighter", f"a new question is answered by {fallen.served_by}, marked as lighter")
        start_model_server(self.parts, self.stage)
        healed = await self._until(lambda answer: answer.rung == "primary", limit_s=120)
        out.check(healed, "the server is back, probes succeed, the breaker closes by itself")

    async def drift(self) -> None:
        out = self.terminal
        out.chapter("The world changes: real rows, an injected change of concept")
        calm = self.rows.part(100, 1600)
        error = await self._stream(calm, calm.labels, "as trained")
        out.say(f"1,500 rows as the model knows them: {error:.1%} wrong")
        out.check(await self._state() in ("HEALTHY", "LEARNING"), "no alarm without a change")
        started_ms = time.time() * 1000
        fell = await self._stream_until_promoted(self.rows.part(1600, None))
        moves = self._moves()
        for state, at_ms in moves:
            if at_ms >= started_ms:
                out.detail(f"{(at_ms - started_ms) / 1000:5.1f} s  {state}")
        states = [state for state, _ in moves]
        out.check("DEGRADED" in states, "labels prove the damage")
        out.check(fell, "the fallback is shown to be better on the same rows; it answers, and says so")
        out.check("RETRAINING" in states, "retraining starts by itself")
        tried = self._canary_answers
        out.check(states.count("CANARY") == 3 and tried > 0, "the challenger is tried by 1, 10 and 50 % of the agents")
        out.detail(f"agent:analyst-north is one of the first hundredth: {tried} of its calls were answered by risk/2")
        answer = await self.analyst.predict(self.rows.inputs[:2])
        out.check(answer.served_by == "risk/2", "the challenger beat the champion on unseen rows and is promoted")
        after = self.rows.part(100, 1100)
        error = await self._stream(after, concept_change(after), "after promotion")
        out.say(f"1,000 rows of the changed world, served by {answer.served_by}: {error:.1%} wrong")

    def ledger(self) -> None:
        out = self.terminal
        out.chapter("Anyone can check what happened")
        key = (self.stage.folder / "audit/signing.key.pub").read_text("utf-8").strip()
        report = verify(self.stage.ledger, key)
        out.check(report.is_sound, f"audit verify: {report.size:,} entries, every one as it was signed")
        out.detail("the model's life, from the ledger: " + " → ".join(state for state, _ in self._moves()))
        copy = self.stage.folder / "audit/tampered.sqlite"
        flip_one_byte(self.stage.ledger, copy)
        report = verify(copy, key)
        out.check(not report.is_sound, "one flipped byte in a copy is found")
        for fault in list(report.faults)[:2]:
            out.detail(str(fault))
        copy.unlink()

    # --- what chapters need

    def _entries(self) -> int:
        return LedgerReader(self.stage.ledger).head().size

    def _moves(self) -> list[tuple[str, int]]:
        """The model's states and when it entered them (Unix milliseconds), from the ledger."""
        records = LedgerReader(self.stage.ledger).read(kinds=["drift.transition"])
        return [(str(record.body["drift"]["to"]), record.time_ms) for record in records]

    async def _state(self) -> str:
        _, said = await self.operator.get("/api/models")
        models = {each["name"]: each for each in said["models"]}
        return str(models["risk"]["state"] or "LEARNING")  # the monitor may not have said anything yet

    async def _stream(self, rows: Rows, labels: NDArray[np.int64], what: str) -> float:
        """Ask in batches, label every answer; the share of wrong ones."""
        wrong = 0
        for start in range(0, len(labels), BATCH_ROWS):
            truth = labels[start : start + BATCH_ROWS]
            answer = await self.analyst.predict(rows.inputs[start : start + BATCH_ROWS])
            await self.operator.label(answer.call_id, truth.tolist())
            wrong += int((np.array(answer.classes) != truth).sum())
            self.terminal.progress(f"{what}: {start + len(truth):,} of {len(labels):,} rows")
        return wrong / len(labels)

    async def _stream_until_promoted(self, rows: Rows) -> bool:
        """Changed rows, round and round, until the new version answers; whether the fallback answered meanwhile."""
        labels, wrong, asked, fell = concept_change(rows), 0, 0, False
        deadline_s = time.monotonic() + LOOP_LIMIT_S
        while time.monotonic() < deadline_s:
            start = asked % (len(labels) - BATCH_ROWS)
            truth = labels[start : start + BATCH_ROWS]
            answer = await self.analyst.predict(rows.inputs[start : start + BATCH_ROWS])
            await self.operator.label(answer.call_id, truth.tolist())
            wrong, asked = wrong + int((np.array(answer.classes) != truth).sum()), asked + len(truth)
            state, fell = await self._state(), fell or answer.rung == "lighter"
            self.terminal.progress(f"changed rows: {asked:,}, {wrong / asked:.0%} wrong so far, model is {state}")
            if answer.served_by == "risk/2":
                break
            if state == "CANARY":
                tried = await self.north.predict(rows.inputs[start : start + BATCH_ROWS])
                await self.operator.label(tried.call_id, truth.tolist())
                self._canary_answers += tried.served_by == "risk/2"
        return fell

    async def _until(self, holds: Callable[[Answer], bool], limit_s: float) -> bool:
        deadline_s = time.monotonic() + limit_s
        row = 0
        while time.monotonic() < deadline_s:
            row += 1
            if holds(await self.analyst.predict(self.rows.inputs[row : row + 1])):
                return True
            await asyncio.sleep(0.2)
        return False

    async def _until_breaker(self, state: str) -> bool:
        for row in range(40):
            await self.analyst.predict(self.rows.inputs[20 + row : 21 + row])
            _, said = await self.operator.get("/api/breakers")
            if any(each["name"].startswith("risk/") and each["state"] == state for each in said["breakers"]):
                return True
        return False


def flip_one_byte(original: Path, copy: Path) -> None:
    """A copy in which somebody changed one letter of one recorded body."""
    import sqlite3  # noqa: PLC0415  only this vandal needs it

    source = sqlite3.connect(f"file:{original}?mode=ro", uri=True)
    with sqlite3.connect(copy) as target:
        source.backup(target)
        index, body = target.execute("SELECT idx, body FROM log WHERE kind = 'deny' LIMIT 1").fetchone()
        target.execute("UPDATE log SET body = ? WHERE idx = ?", (body.replace(b'"deny"', b'"denz"', 1), index))
    source.close()
    shutil.copymode(original, copy)


@asynccontextmanager
async def story(stage: Stage, parts: Parts, terminal: Terminal) -> AsyncGenerator[Story]:
    analyst, north = (GrpcAgent(f"127.0.0.1:{stage.grpc}", stage.tokens[who]) for who in ("analyst", "north"))
    async with aiohttp.ClientSession() as session:
        support = HttpAgent(stage.url, stage.tokens["support"], session)
        operator, finance = (HttpAgent(stage.url, stage.tokens[who], session) for who in ("operator", "finance"))
        try:
            yield Story(stage, parts, terminal, analyst, north, support, operator, finance, load().stream)
        finally:
            await analyst.close()
            await north.close()
