from __future__ import annotations

import io
import json
import logging
from collections.abc import Generator
from typing import Any

import pytest

from controlplane.telemetry.logs import configure_logging, log_fields

log = logging.getLogger("test.logs")


@pytest.fixture
def stream() -> Generator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.raiseExceptions)
    uvicorn = {name: logging.getLogger(name).propagate for name in ("uvicorn", "uvicorn.error", "uvicorn.access")}
    written = io.StringIO()
    configure_logging("info", written)
    yield written
    root.handlers[:], root.level, logging.raiseExceptions = before
    for name, propagate in uvicorn.items():
        logging.getLogger(name).propagate = propagate


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def breaks(error: Exception, cause: Exception | None = None) -> None:
    raise error from cause


def test_a_line_is_one_json_object(stream: io.StringIO) -> None:
    log.info("model %s\nswitched", "risk", extra={"version": 2, "labels": ["a", "b"], "ratio": 0.5})
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "test.logs",
        "message": "model risk\nswitched",
        "version": 2,
        "labels": ["a", "b"],
        "ratio": 0.5,
    }
    assert stream.getvalue().count("\n") == 1


def test_lines_inside_a_call_name_it(stream: io.StringIO) -> None:
    with log_fields(call_id="c1", trace_id="t1"), log_fields(ledger_index=7):
        log.info("inside")
    log.info("outside")
    inside, outside = lines(stream)
    assert (inside["call_id"], inside["trace_id"], inside["ledger_index"]) == ("c1", "t1", 7)
    assert "call_id" not in outside


def test_an_exception_is_part_of_its_one_line(stream: io.StringIO) -> None:
    try:
        breaks(ValueError("outer"), KeyError("inner\nword"))
    except ValueError:
        log.exception("it broke")
    (line,) = lines(stream)
    assert line["exception"] == "ValueError: outer"
    assert line["cause"].startswith("KeyError")
    assert "test_logs.py" in line["stack"][0]
    assert stream.getvalue().count("\n") == 1


JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "extra",
    [
        {"Authorization": "Basic abc"},
        {"refresh_token": "opaque-value-1"},
        {"headers": {"cookie": "opaque-value-1"}},
        {"deep": [{"api_key": "opaque-value-1"}]},
        {"note": f"got Bearer {JWT}"},
        {"note": f"token was {JWT}"},
        {"note": "sk-abcdefghijklmnop"},
        {"note": "-----BEGIN EC PRIVATE KEY-----\nMHcopaque-value-1"},
        {"password": ["opaque-value-1"]},
    ],
)
def test_secrets_are_blotted_out(stream: io.StringIO, extra: dict[str, Any]) -> None:
    log.info("careless", extra=extra)
    text = stream.getvalue()
    assert "***" in text
    for secret in ("opaque-value-1", JWT, "Basic abc", "sk-abcdef"):
        assert secret not in text


def test_secrets_in_messages_and_exceptions_are_blotted_out(stream: io.StringIO) -> None:
    try:
        breaks(ValueError(f"bad header Bearer {JWT}"))
    except ValueError:
        log.exception("could not read %s", JWT)
    assert JWT not in stream.getvalue()


def test_token_counts_are_no_secrets(stream: io.StringIO) -> None:
    log.info("done", extra={"input_tokens": 12})
    assert lines(stream)[0]["input_tokens"] == 12


class Unsayable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [Unsayable(), float("nan"), "\ud800", b"\xff", {1: {2: {3: {4: {5: 6}}}}}, 10**30])
def test_whatever_is_logged_the_line_is_json(stream: io.StringIO, value: object) -> None:
    log.info("strange", extra={"value": value})
    assert "value" in lines(stream)[0]


def test_wrong_arguments_for_a_format_lose_no_line(stream: io.StringIO) -> None:
    record = logging.makeLogRecord({"msg": "%d of %d", "args": ("x",), "levelno": logging.INFO})
    log.handle(record)
    assert lines(stream)[0]["message"] == "%d of %d"


def test_a_long_value_is_cut(stream: io.StringIO) -> None:
    log.info("long", extra={"value": "x" * 10_000})
    assert len(lines(stream)[0]["value"]) <= 2_001


def test_an_extra_cannot_overwrite_the_line_itself(stream: io.StringIO) -> None:
    log.info("true", extra={"level": "forged", "time": "forged"})
    (line,) = lines(stream)
    assert line["level"] == "info"
    assert line["level_"] == line["time_"] == "forged"


def test_a_broken_stream_breaks_nobody(stream: io.StringIO) -> None:
    stream.close()
    log.error("nobody reads this")


def test_uvicorn_speaks_the_same_language_and_its_access_log_is_silent(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.access").info("GET /?token=abc")
    logging.getLogger("casbin.policy").info("Model:")
    assert [line["message"] for line in lines(stream)] == ["started"]
