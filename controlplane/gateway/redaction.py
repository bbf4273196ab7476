"""Masking what must not pass: card numbers, IBANs, e-mail addresses, telephone numbers. Pure.

A mask is as long as what it hides, so that every length stated elsewhere stays true; and only what is masked changes,
so that numbers, spacing and the order of names arrive as they were sent. A value split over several strings, spelled
out or encoded is not found: this guards against carelessness, not against somebody who hides it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from string import ascii_letters
from typing import Any

MASK = "*"
NOT_JSON = "redact_needs_json"
CARD_DIGITS = range(13, 20)  # ISO/IEC 7812-1, with 13 for the shortest still issued
IBAN_CHARACTERS = range(15, 35)  # ISO 13616-1: the shortest country's, the longest allowed
DOUBLED = str.maketrans("0123456789", "0246813579")  # twice the digit, and of that the sum of digits
IN_DIGITS = str.maketrans({letter: str(int(letter, 36)) for letter in ascii_letters})

Span = tuple[int, int]
Finder = Callable[[str], Iterable[Span]]

_digit_groups = re.compile(r"(?<![0-9])(?<![0-9]\.)[0-9](?:[ -]?[0-9]){12,}")  # not the digits behind a decimal point
_iban = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11,}")
_email = re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,63}")
_phone = re.compile(r"(?<![0-9A-Za-z+])(?:\+|00)[1-9](?:[ ().-]{0,2}[0-9]){6,14}(?![0-9])")
_group = re.compile(r"[0-9A-Za-z]+")
_token = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9][0-9.eE+-]*')
_name_ends = re.compile(r"[ \t\r\n]*:")


class CannotRedact(Exception):
    """The text cannot be searched or not be masked; ``reason`` is a stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def cards(text: str) -> Iterator[Span]:
    for found in _digit_groups.finditer(text):
        yield from _valid_stretches(text, found.span(), CARD_DIGITS, _is_card)


def ibans(text: str) -> Iterator[Span]:
    for found in _iban.finditer(text):
        yield from _valid_stretches(text, found.span(), IBAN_CHARACTERS, _is_iban)


def emails(text: str) -> Iterator[Span]:
    return (found.span() for found in _email.finditer(text))


def phones(text: str) -> Iterator[Span]:
    return (found.span() for found in _phone.finditer(text))


PATTERNS: dict[str, Finder] = {"card": cards, "iban": ibans, "email": emails, "phone": phones}
"""What an obligation may name. Telephone numbers only with their country code: all others are just numbers."""


def _valid_stretches(text: str, span: Span, lengths: range, is_valid: Callable[[str], bool]) -> Iterator[Span]:
    """Stretches of whole groups that hold a valid number; words before or after it may look like more of it."""
    groups = [found.span() for found in _group.finditer(text, *span)]
    first = 0
    while first < len(groups):
        last = _longest(text, groups, first, lengths, is_valid)
        if last is None:
            first += 1
        else:
            yield groups[first][0], groups[last][1]
            first = last + 1


def _longest(text: str, groups: list[Span], first: int, lengths: range, is_valid: Callable[[str], bool]) -> int | None:
    characters, fitting = "", None
    for last in range(first, len(groups)):
        characters += text[slice(*groups[last])]
        if len(characters) >= lengths.stop:
            break
        if len(characters) in lengths and is_valid(characters):
            fitting = last
    return fitting


def _is_card(digits: str) -> bool:
    """Issuer ranges begin with 2 to 6 or 81; the check digit is Luhn's (ISO/IEC 7812-1 Annex B)."""
    if digits[0] not in "23456" and not digits.startswith("81"):
        return False
    return sum(map(int, digits[-1::-2] + digits[-2::-2].translate(DOUBLED))) % 10 == 0


def _is_iban(characters: str) -> bool:
    """ISO 7064 MOD 97-10 over the rearranged characters (ISO 13616-1 Annex A)."""
    if not (characters[:2].isalpha() and characters[2:4].isdigit()):
        return False
    return int((characters[4:] + characters[:4]).translate(IN_DIGITS)) % 97 == 1


def mask_text(text: str, names: Iterable[str]) -> str:
    """``text`` with everything masked that the named patterns find; the length stays."""
    for name in names:
        kept: list[str] = []
        seen = 0
        for start, end in PATTERNS[name](text):
            kept += text[seen:start], MASK * (end - start)
            seen = end
        if kept:
            text = "".join((*kept, text[seen:]))
    return text


def mask_value(value: Any, names: Iterable[str]) -> Any:
    """A parsed JSON value, masked as ``mask_json`` masks its text."""
    if isinstance(value, str):
        return mask_text(value, names)
    if isinstance(value, int) and not isinstance(value, bool):
        return 0 if mask_text(str(value), names) != str(value) else value
    if isinstance(value, Mapping):
        return {name: mask_value(member, names) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [mask_value(member, names) for member in value]
    return value


def mask_json(body: bytes, names: Iterable[str]) -> bytes:
    """A JSON text of the same length with strings and whole numbers masked, all other bytes as they are.

    Raises:
        CannotRedact: it is not JSON, or what is to be masked stands in a name.
    """
    names = tuple(names)
    try:
        json.loads(text := body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise CannotRedact(NOT_JSON) from None
    return _token.sub(lambda found: _masked_token(found, text, names), text).encode("utf-8")


def mask_lines(text: str, names: Iterable[str]) -> str:
    """Text that is not JSON as a whole. Lines of an event stream may hold JSON (WHATWG HTML §9.2.6, ``data:``)."""
    return "".join(_masked_line(line, tuple(names)) for line in text.splitlines(keepends=True))


def _masked_line(line: str, names: tuple[str, ...]) -> str:
    field, colon, value = line.partition(":")
    if field != "data":
        return mask_text(line, names)
    try:
        return field + colon + mask_json(value.encode(), names).decode()
    except CannotRedact as error:
        if error.reason != NOT_JSON:
            raise
        return mask_text(line, names)


def _masked_token(found: re.Match[str], text: str, names: tuple[str, ...]) -> str:
    literal = found[0]
    if not literal.startswith('"'):
        unharmed = not literal.lstrip("-").isdigit() or mask_text(literal, names) == literal
        return literal if unharmed else "0".ljust(len(literal))
    masked = _masked_escaped(literal, names) if "\\" in literal else f'"{mask_text(literal[1:-1], names)}"'
    if masked != literal and _name_ends.match(text, found.end()):
        raise CannotRedact("redact_in_name")
    return masked


def _masked_escaped(literal: str, names: tuple[str, ...]) -> str:
    """A string with escapes is read, masked and written anew; spaces behind it keep the length."""
    value: str = json.loads(literal)
    masked = mask_text(value, names)
    if masked == value:
        return literal
    written = json.dumps(masked, ensure_ascii=False)
    missing = len(literal.encode()) - len(written.encode("utf-8", "surrogatepass"))
    if missing < 0 or any("\ud800" <= character <= "\udfff" for character in written):
        raise CannotRedact("redact_unwritable")
    return written + " " * missing
