"""JSON that every parser reads alike, or none: we decide on what we read, others act on what they read.

Refused: duplicate keys, lone surrogates, ``NaN`` and ``Infinity``, other encodings than UTF-8.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn


class Ambiguous(ValueError):
    """The text is JSON of a kind that two parsers may read differently, or none; ``reason`` is a stable word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def parse(body: bytes, *, in_any_case: bool = False) -> Any:
    """``in_any_case``: keys of one object must differ in more than case, since Go's and .NET's parsers take one for the
    other. Raises ``Ambiguous``.
    """
    try:
        text = body.decode("utf-8")
        pairs = _unique_in_any_case if in_any_case else _unique
        document = json.loads(text, object_pairs_hook=pairs, parse_constant=_no_constant)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode("utf-8")  # fails for lone surrogates
    except Ambiguous:
        raise
    except UnicodeEncodeError:
        raise Ambiguous("lone_surrogate", "a string is not valid Unicode") from None
    except (ValueError, RecursionError):
        raise Ambiguous("parse_error", "the body is not valid JSON") from None
    return document


def parse_object(body: bytes) -> dict[str, Any]:
    """Raises ``Ambiguous``, also for JSON that is no object (``not_an_object``)."""
    document = parse(body)
    if not isinstance(document, dict):
        raise Ambiguous("not_an_object", "the text is not a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise Ambiguous("duplicate_key", "a key stands twice in one object")
    return document


def _unique_in_any_case(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = _unique(pairs)
    if len(set(map(str.casefold, document))) != len(document):
        raise Ambiguous("ambiguous_key", "two keys of one object differ only in case")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
