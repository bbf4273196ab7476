from __future__ import annotations

import logging
from typing import Any

import pytest

from controlplane.telemetry.asgi import FIELDS, AccessLog, Application, MetricsEndpoint
from controlplane.telemetry.metrics import Metrics


def scope_of(path: str = "/metrics", method: str = "GET", **more: Any) -> dict[str, Any]:
    return {"type": "http", "path": path, "method": method, "headers": [], "client": ("10.0.0.1", 5), **more}


async def nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def ask(app: Application, scope: dict[str, Any]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await app(scope, nothing, send)
    return sent


async def test_metrics_are_served_in_the_format_asked_for() -> None:
    endpoint = MetricsEndpoint(Metrics())
    head, body = await ask(endpoint, scope_of(headers=[(b"accept", b"application/openmetrics-text; version=1.0.0")]))
    assert head["status"] == 200
    assert dict(head["headers"])[b"content-type"].startswith(b"application/openmetrics-text")
    assert body["body"].endswith(b"# EOF\n")


@pytest.mark.parametrize(("path", "method"), [("/", "GET"), ("/metrics", "POST")])
async def test_nothing_else_is_served(path: str, method: str) -> None:
    head, _ = await ask(MetricsEndpoint(Metrics()), scope_of(path, method))
    assert head["status"] == 404


async def test_a_registry_that_cannot_be_rendered_is_a_failed_scrape(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    metrics.registry = None  # type: ignore[assignment]  # broken on purpose
    head, _ = await ask(MetricsEndpoint(metrics), scope_of())
    assert head["status"] == 500
    assert "telemetry broke" in caplog.text


async def reply(scope: Any, receive: Any, send: Any) -> None:
    scope[FIELDS]["call_id"] = "c1"
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"ab", "more_body": True})
    await send({"type": "http.response.body", "body": b"c"})


async def test_a_request_is_one_line_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    times = iter([1.0, 1.25])
    with caplog.at_level(logging.INFO, "controlplane.access"):
        await ask(AccessLog(reply, lambda: next(times)), scope_of("/tools/refund", "POST", query_string=b"secret=1"))
    (record,) = caplog.records
    fields = vars(record)
    wanted = {
        "method": "POST",
        "path": "/tools/refund",
        "status": 201,
        "bytes": 3,
        "client": "10.0.0.1",
        "duration_ms": 250.0,
        "call_id": "c1",
    }
    assert {name: fields[name] for name in wanted} == wanted
    assert "secret" not in str(fields)


async def test_a_request_that_breaks_is_logged_and_goes_on_breaking(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("inner")

    with caplog.at_level(logging.INFO, "controlplane.access"), pytest.raises(RuntimeError):
        await ask(AccessLog(broken), scope_of("/x"))
    assert vars(caplog.records[0])["status"] == 0
