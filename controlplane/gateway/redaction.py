"""Masking what must not pass: card numbers, IBANs, e-mail addresses, telephone numbers. Pure.

A mask is as long as what it hides, so that every length stated elsewhere stays true; and only what is masked changes,
so that numbers, spacing and the order of names arrive as they were sent. A value split over several strings, spelled
out or encoded is not found: this guards against carelessness, not against somebody who hides it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from string import ascii_letters
from typing import Any, Protocol

MASK = "*"
NOT_JSON = "redact_needs_json"
CARD_DIGITS = range(13, 20)  # ISO/IEC 7812-1, with 13 for the shortest still issued
IBAN_CHARACTERS = range(15, 35)  # ISO 13616-1: the shortest country's, the longest allowed
DOUBLED = str.maketrans("0123456789", "0246813579")  # twice the digit, and of that the sum of digits
IN_DIGITS = str.maketrans({letter: str(int(letter, 36)) for letter in ascii_letters})

Span = tuple[int, int]
Finder = Callable[[str], Iterable[Span]]


class Number(Protocol):
    """Characters in which stretches may be a number of some kind, by their offsets."""

    def may_begin(self, start: int) -> bool: ...
    def fits(self, start: int, end: int) -> bool:
        """For a stretch that may begin there, and has a length that such numbers have."""
        ...


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
        yield from _valid_stretches(text, found.span(), CARD_DIGITS, Card)


def ibans(text: str) -> Iterator[Span]:
    for found in _iban.finditer(text):
        yield from _valid_stretches(text, found.span(), IBAN_CHARACTERS, Iban)


def emails(text: str) -> Iterator[Span]:
    return (found.span() for found in _email.finditer(text))


def phones(text: str) -> Iterator[Span]:
    return (found.span() for found in _phone.finditer(text))


PATTERNS: dict[str, Finder] = {"card": cards, "iban": ibans, "email": emails, "phone": phones}
"""What an obligation may name. Telephone numbers only with their country code: all others are just numbers."""


def _valid_stretches(text: str, span: Span, lengths: range, number_in: Callable[[str], Number]) -> Iterator[Span]:
    """Stretches of whole groups that hold a valid number, the longest from where they begin; words before or after it
    may look like more of it."""
    groups = [found.span() for found in _group.finditer(text, *span)]
    number = number_in("".join(text[start:end] for start, end in groups))
    offsets = [0, *accumulate(end - start for start, end in groups)]
    first = 0
    while first < len(groups):
        start = offsets[first]
        last = _longest(number, offsets, start, lengths) if number.may_begin(start) else None
        if last is None:
            first += 1
        else:
            yield groups[first][0], groups[last - 1][1]
            first = last


def _longest(number: Number, offsets: list[int], start: int, lengths: range) -> int | None:
    """The group before which the longest number from ``start`` ends."""
    shortest = bisect_left(offsets, start + lengths.start)
    beyond = bisect_left(offsets, start + lengths.stop, shortest)
    return next((last for last in reversed(range(shortest, beyond)) if number.fits(start, offsets[last])), None)


class Card:
    """Issuer ranges begin with 2 to 6 or 81; the check digit is Luhn's (ISO/IEC 7812-1 Annex B).

    Sums from the first digit on make the check of a stretch as quick as that of any other: a text of nothing but digits
    has millions of them.
    """

    def __init__(self, digits: str) -> None:
        self._digits = digits
        plain, doubled = list(map(int, digits)), list(map(int, digits.translate(DOUBLED)))
        weighed = plain.copy(), doubled.copy()  # by whether a number's last digit, which counts as it is, stands even
        weighed[0][1::2], weighed[1][1::2] = doubled[1::2], plain[1::2]
        self._sums = [[0, *accumulate(each)] for each in weighed]

    def may_begin(self, start: int) -> bool:
        return self._digits[start] in "23456" or self._digits.startswith("81", start)

    def fits(self, start: int, end: int) -> bool:
        sums = self._sums[(end - 1) % 2]
        return (sums[end] - sums[start]) % 10 == 0


class Iban:
    """ISO 7064 MOD 97-10 over the rearranged characters (ISO 13616-1 Annex A)."""

    def __init__(self, characters: str) -> None:
        self._characters = characters

    def may_begin(self, start: int) -> bool:
        return self._characters[start : start + 2].isalpha() and self._characters[start + 2 : start + 4].isdigit()

    def fits(self, start: int, end: int) -> bool:
        rearranged = self._characters[start + 4 : end] + self._characters[start : start + 4]
        return int(rearranged.translate(IN_DIGITS)) % 97 == 1


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
