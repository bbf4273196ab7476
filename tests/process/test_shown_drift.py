"""From a monitor's detectors over HTTP into a whole gateway's console: evidence, a report, and servers as they are."""

from __future__ import annotations

import gzip
import time
from functools import partial

import aiohttp
import pytest

from controlplane.drift.reporter import MADE, MadeReport
from controlplane.monitor import HttpClient, MonitorSettings
from controlplane.monitor.process import standings
from controlplane.monitor.reports import ALARM, body_of
from controlplane.monitor.showing import Showing
from controlplane.retraining.ports import TransitionRefused
from tests.process.test_watching import Running, gateway

__all__ = ["gateway"]  # a fixture
PAGE = b"<!doctype html><title>report</title>"


def client_of(running: Running, session: aiohttp.ClientSession) -> HttpClient:
    return HttpClient(MonitorSettings(gateway_url=running.url, token_file=running.monitor_token), session)


async def fetched(running: Running, path: str) -> tuple[int, bytes, str]:
    headers = {"authorization": f"Bearer {running.monitor_token.read_text()}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(running.url + path) as reply:
        return reply.status, await reply.read(), reply.headers.get("content-security-policy", "")


async def test_what_the_monitor_hands_in_is_recorded_and_shown(gateway: Running) -> None:
    await gateway.ask(5)
    async with gateway.monitor() as monitor, aiohttp.ClientSession() as session:
        await monitor.turn()
        client = client_of(gateway, session)
        loop = monitor.loops["risk"]
        loop.watch = type(loop.watch)(1, loop.watch.settings.model_copy(update={"reference_errors": 200}))
        await Showing(partial(standings, monitor), client, time.time).show()
        made = MadeReport(
            word=MADE, html_gzip=gzip.compress(PAGE), scores={"a": 0.8, "b": 0.01}, drifted=1, columns=2, of_columns=2
        )
        await client.show_report("risk", body_of(made, 1, ALARM))
    (point,) = gateway.plane.drift_desk.points("risk")
    assert (point.detector, point.evidence) == ("labelled_error", 0.0)
    (record,) = gateway.records("drift.report")
    said = record.body["report"]
    assert said["scores"] == [{"column": "a", "score_milli": 800}, {"column": "b", "score_milli": 10}]
    assert said["by"] == "service:monitor"
    status, page, policy = await fetched(gateway, f"/api/drift/risk/reports/{record.event_id}")
    assert (status, page) == (200, PAGE)
    assert policy.startswith("sandbox allow-scripts")
    status, told, policy = await fetched(gateway, "/api/drift/risk")
    assert (status, b"labelled_error" in told, policy[:18]) == (200, True, "default-src 'self'")


async def test_a_report_that_is_none_is_refused_and_not_recorded(gateway: Running) -> None:
    async with aiohttp.ClientSession() as session:
        client = client_of(gateway, session)
        with pytest.raises(TransitionRefused, match="not gzip"):
            await client.show_report("risk", body_of(MadeReport(word=MADE, html_gzip=b"<html>"), 1, ALARM))
    assert gateway.records("drift.report") == []
