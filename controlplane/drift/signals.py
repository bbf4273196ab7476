"""What can be told of a text without keeping it: nine cheap counts, and whether it begins like a refusal. Pure.

Length, shape and vocabulary in numbers. They cannot tell whether an answer is good; they move when answers become other
ones: refusals, another language, cut-off or repeated text. A text costs some ten microseconds, twenty a kilobyte.
"""

from __future__ import annotations

import math
import re

TEXT = (
    "text_chars",
    "text_words",
    "text_word_chars",
    "text_digit_ratio",
    "text_punctuation_ratio",
    "text_distinct_ratio",
    "text_non_ascii_ratio",
    "text_newline_ratio",
    "text_english_ratio",
)
"""Columns for ``inputs`` detectors, in this order. ``text_english_ratio`` is the share of words that are among the
most common English ones: a text in another language that is written in the same letters has few of them."""

CALL = ("latency", "first_token", "cost", "output_tokens")
EVENTS = ("refusal", "truncated", "structured_output", "tool_error", "safety_block", "timeout", "schema")
"""0/1 streams; 1 is what should not be."""

REFUSAL_CHARS = 300  # a refusal is said at the beginning
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:so |very )?sorry,? (?:but|i)\b"
    r"|i (?:can(?:no|')t|can not|am (?:not able|unable)|'m (?:not able|unable)|won't|will not|must decline"
    r"|do not feel comfortable|don't feel comfortable)\b(?! wait\b| stress\b| emphasi[sz]e\b| help but\b)"
    r"|i(?:'m| am) (?:not able|unable) to\b"
    r"|as an? (?:ai|artificial intelligence|large language|language)\b"
    r"|(?:this|your|that) request (?:cannot|can't|violates)"
    r"|against (?:my|our) (?:guidelines|policy|policies|programming))",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "the of and to in is that for it as with was on are be this by or an from at not have you which can a i we if "
        "will your has but they all their more when one there so what about into than its how",
    )
)
_NO_LETTERS = str.maketrans("", "", "0123456789")


def text_signals(text: str) -> dict[str, float]:
    """Numbers by the names in ``TEXT``, and ``refusal``. An empty text has no ratios."""
    words = _WORD.findall(text.lower())
    chars, count = len(text), len(words)
    found = {"text_chars": float(chars), "text_words": float(count), "refusal": float(refuses(text))}
    if not chars:
        return found
    letters = sum(map(len, words))
    spaces = chars - len("".join(text.split()))
    found["text_digit_ratio"] = (chars - len(text.translate(_NO_LETTERS))) / chars
    found["text_punctuation_ratio"] = max(0, chars - letters - spaces) / chars
    found["text_non_ascii_ratio"] = 0.0 if text.isascii() else sum(map(ord_above, text)) / chars
    found["text_newline_ratio"] = text.count("\n") / chars
    if count:
        found["text_word_chars"] = letters / count
        found["text_distinct_ratio"] = len(set(words)) / count
        found["text_english_ratio"] = sum(word in _COMMON for word in words) / count
    return found


def refuses(text: str) -> bool:
    """Whether a text begins like an assistant that will not do what it was asked."""
    return _REFUSAL.search(text[:REFUSAL_CHARS].replace("\u2019", "'")) is not None


def ord_above(character: str) -> bool:
    return character > "\x7f"


def text_row(values: dict[str, float]) -> list[float]:
    """The columns of ``TEXT``, NaN where a text had none."""
    return [values.get(name, math.nan) for name in TEXT]
