"""Counts of a text, and refusals by how they begin."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.drift.signals import TEXT, refuses, text_row, text_signals


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "I cannot provide instructions for that.",
        "Unfortunately, I am unable to share this file.",
        "As an AI language model, I do not have access.",
        "Sorry! I won't do that.",
        "This request violates our usage policy.",
        "It is against my guidelines to say so.",
    ],
)
def test_refusals_are_known(text: str) -> None:
    assert refuses(text)
    assert text_signals(text)["refusal"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The invoice is 240 euros. I'm sorry to hear about the delay.",
        "I can help with that: open the door.",
        "I can't wait to see it!",
        "Use a try block; the function cannot return None.",
        "Sorry about that. Here is the corrected code.",
        "A long answer. " * 40 + "I can't help with that.",
    ],
)
def test_what_only_sounds_like_a_refusal_is_none(text: str) -> None:
    assert not refuses(text)


@given(st.text(max_size=400))
def test_ratios_are_ratios_and_lengths_are_lengths(text: str) -> None:
    values = text_signals(text)
    assert values["text_chars"] == len(text)
    assert all(0 <= value <= 1 for name, value in values.items() if name.endswith("_ratio"))
    row = text_row(values)
    assert len(row) == len(TEXT)
    assert any(math.isnan(each) for each in row) == (values["text_words"] == 0)


def test_another_language_shows_even_in_the_same_letters() -> None:
    english = text_signals("The total of the invoice is in the letter that you have from us.")
    norwegian = text_signals("Summen staar i brevet som du har faatt fra oss forrige uke.")
    chinese = text_signals("发票的总额在信里。")
    assert english["text_english_ratio"] > 0.5 > norwegian["text_english_ratio"]
    assert chinese["text_non_ascii_ratio"] == 1


def test_repetition_shows_in_the_share_of_distinct_words() -> None:
    assert text_signals("again and " * 50)["text_distinct_ratio"] < 0.05
