"""Structured logs: one JSON object a line on standard error, with the call they belong to when there is one.

``log.info("what happened", extra={...})`` puts the extra fields beside ``time``, ``level``, ``logger`` and ``message``.
Inside ``log_fields(call_id=…)`` every line carries those fields too. Secrets are blotted out by the name of their field
and by their look, but the rule is: do not log them. Fails open: a line that cannot be written is lost.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from traceback import extract_tb
from typing import Any, TextIO

import msgspec

BLOT = "***"
LONGEST_VALUE = 2_000
DEEPEST = 4

_SECRET_NAME = re.compile(
    r"authorization|cookie|password|passwd|secret|credential|api[_-]?key|private[_-]?key|(^|_)token$", re.IGNORECASE
)
# Bearer credentials, JWTs (three base64url parts, the first a JSON object), and keys in the fashion of model providers.
_SECRET_LOOK = re.compile(
    r"(?i:bearer|basic)\s+[\w.~+/=-]{8,}|\beyJ[\w-]+\.[\w-]+\.[\w-]*|\bsk-[\w-]{12,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_fields: ContextVar[Mapping[str, Any] | None] = ContextVar("log_fields", default=None)


@contextmanager
def log_fields(**fields: str | int) -> Generator[None]:
    """Put ``call_id``, ``trace_id``, ``ledger_index`` on every line that is written inside, in this task."""
    token = _fields.set({**(_fields.get() or {}), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every logger's lines, uvicorn's own included, to ``stream`` (standard error) as JSON.

    Run uvicorn with ``log_config=None, access_log=False``; ``AccessLog`` writes those lines.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logging.raiseExceptions = False  # a handler that cannot write must not write about that either
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.setLevel(logging.NOTSET)
        logger.propagate = name != "uvicorn.access"
    logging.getLogger("casbin").setLevel(logging.WARNING)  # it would say the whole model at every reload


class JsonLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__()
        self._encode = msgspec.json.Encoder().encode

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": plain(_message(record)),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        for name, value in {**(_fields.get() or {}), **extra}.items():
            line[name if name not in line else f"{name}_"] = BLOT if _SECRET_NAME.search(name) else plain(value)
        if record.exc_info and record.exc_info[1] is not None:
            line |= _exception(record.exc_info[1])
        return self._encode(line).decode()


def plain(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON can hold it: bounded, without secrets, whatever it is."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON has no infinities
    if isinstance(value, Mapping) and depth < DEEPEST:
        pairs = ((_text(name), each) for name, each in value.items())
        return {name: BLOT if _SECRET_NAME.search(name) else plain(each, depth + 1) for name, each in pairs}
    if isinstance(value, list | tuple | set | frozenset) and depth < DEEPEST:
        return [plain(each, depth + 1) for each in value]
    return _text(value)


def _text(value: object) -> str:
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception as error:  # noqa: BLE001  a value that cannot say what it is must not cost the line
        return f"<{type(value).__name__}: {type(error).__name__}>"
    text = _SECRET_LOOK.sub(BLOT, text[: 2 * LONGEST_VALUE]).encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  wrong arguments for the format: the format still says something
        return str(record.msg)


def _exception(error: BaseException) -> dict[str, Any]:
    """Type, words and places of an exception; no source lines and no values of variables."""
    stack = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)]
    facts: dict[str, Any] = {"exception": _text(f"{type(error).__name__}: {_text(error)}"), "stack": stack}
    cause = error.__cause__ or error.__context__
    if cause is not None:
        facts["cause"] = _text(f"{type(cause).__name__}: {_text(cause)}")
    return facts
