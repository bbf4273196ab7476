"""What is found, what is left alone, and that nothing else in a document moves."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.gateway.redaction import PATTERNS, CannotRedact, mask_json, mask_lines, mask_text, mask_value

CARD = "4111111111111111"  # the schemes' published test numbers
IBAN = "DE89370400440532013000"  # the example of ISO 13616-1's registry


@pytest.mark.parametrize(
    ("name", "text", "masked"),
    [
        ("card", CARD, "*" * 16),
        ("card", "pay 4111 1111 1111 1111 now", "pay ******************* now"),
        ("card", "4111-1111-1111-1111.", "*******************."),
        ("card", "378282246310005", "*" * 15),
        ("card", "6011000990139424, 5555555555554444", f"{'*' * 16}, {'*' * 16}"),
        ("card", "2223003122003222", "*" * 16),
        ("card", "4222222222222", "*" * 13),
        ("card", "6304000000000000000", "*" * 19),
        ("card", f"no. 12 {CARD}", f"no. 12 {'*' * 16}"),
        ("card", f"no. 7 {CARD}", f"no. 7 {'*' * 16}"),
        ("card", "8100000000000002", "*" * 16),
        ("card", "4 2 3 3 1 9 2 9 8 1 4 7 3 0 5 7", "*" * 31),  # whose first thirteen would be one as well
        ("card", f"card{CARD}EUR", f"card{'*' * 16}EUR"),
        ("card", f"{CARD} 12/27 123", f"{'*' * 16} 12/27 123"),
        ("iban", IBAN, "*" * 22),
        ("iban", "to DE89 3704 0044 0532 0130 00 thanks", "to *************************** thanks"),
        ("iban", "GB82WEST12345698765432", "*" * 22),
        ("iban", "gb82 west 1234 5698 7654 32", "*" * 27),
        ("iban", "NO9386011117947", "*" * 15),
        ("iban", "MT84MALT011000012345MTLCAST001S", "*" * 31),
        ("iban", f"AB12 and {IBAN}", f"AB12 and {'*' * 22}"),
        ("email", "write to a.b+c@mail.example.org!", "write to **********************!"),
        ("phone", "call +49 30 123456 or 0049301234567", "call ************* or *************"),
    ],
)
def test_sensitive_text_is_masked_at_its_length(name: str, text: str, masked: str) -> None:
    assert mask_text(text, [name]) == masked


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("card", "4111111111111112"),  # check digit
        ("card", "411111111111"),  # twelve digits
        ("card", "1763732639000002"),  # no issuer begins with 1
        ("card", "41111111111111111111"),  # twenty digits
        ("card", "0.4539578763621486"),
        ("card", "2026-11-21"),
        ("iban", "DE89370400440532013001"),
        ("iban", "XDE89370400440532013000"),
        ("iban", "DE8937040044"),
        ("iban", "AB12 100000000000083"),  # the check fits the number behind, which names no country
        ("email", "at@home"),
        ("phone", "+12"),
        ("phone", "030 123456"),
    ],
)
def test_what_only_looks_alike_is_left_alone(name: str, text: str) -> None:
    assert mask_text(text, [name]) == text


def test_a_text_of_nothing_but_addresses_takes_the_time_of_its_length() -> None:
    """A megabyte of them once held up every other call for a minute."""
    assert mask_text("a@b.co " * 3, ["email"]) == "****** " * 3

    def cost_s(addresses: int) -> float:
        text, began_s = "a@b.co " * addresses, time.thread_time()
        mask_text(text, ["email"])
        return time.thread_time() - began_s

    assert min(cost_s(64_000) for _ in range(3)) < 30 * min(cost_s(8_000) for _ in range(3)), "8 times the text"


def test_only_what_is_masked_changes() -> None:
    body = b'{ "b":1.10, "a" : [1e400, 12345678901234567890, 0.4539578763621486],\n "s":"\\u00e9 x", "card":"%b"}'
    assert mask_json(body % CARD.encode(), ["card"]) == body % b"****************"


@pytest.mark.parametrize(
    "written",
    [
        f'"{CARD}"',
        '"\\u0034111111111111111"',
        '"4111\\u0020111111111111"',
        f'"\\"{CARD}\\" \\/ \\u00e9"',
        CARD,
        f"-{CARD}",
    ],
)
def test_masked_json_says_the_same_at_the_same_length_without_the_number(written: str) -> None:
    body = f'{{"x": [{written}]}}'.encode()
    masked = mask_json(body, ["card"])
    assert len(masked) == len(body)
    assert "4111" not in json.dumps(json.loads(masked))
    assert mask_value(json.loads(body), ["card"]) == json.loads(masked)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json", "redact_needs_json"),
        (b"\xff\xfe", "redact_needs_json"),
        (b"[" * 100_000, "redact_needs_json"),
        (f'{{"{CARD}": 1}}'.encode(), "redact_in_name"),
        (f'{{"a{CARD}"  : 1}}'.encode(), "redact_in_name"),
        (f'"\\ud800 {CARD}"'.encode(), "redact_unwritable"),
    ],
)
def test_what_cannot_be_masked_is_said(body: bytes, reason: str) -> None:
    with pytest.raises(CannotRedact) as refused:
        mask_json(body, ["card"])
    assert refused.value.reason == reason


def test_event_stream_keeps_its_json_readable() -> None:
    text = f'event: message\ndata: {{"n": {CARD}, "s": "\\u0034111111111111111"}}\n\n: {CARD}\ndata: {CARD} x\n'
    masked = mask_lines(text, ["card"])
    assert json.loads(masked.splitlines()[1].removeprefix("data: ")) == {"n": 0, "s": "*" * 16}
    assert len(masked) == len(text)
    assert "4111" not in masked


def test_iban_and_card_are_masked_together() -> None:
    assert mask_text(f"{IBAN} {CARD}", ["card", "iban"]).replace("*", "") == " "


def test_numbers_that_are_not_whole_stay() -> None:
    assert mask_value({"x": 0.4539578763621486, "t": True, "n": None}, ["card"]) == {
        "x": 0.4539578763621486,
        "t": True,
        "n": None,
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet="abc"), inner),
)


@given(value=JSON, ascii_only=st.booleans())
def test_any_document_stays_the_document_its_value_masks_to(value: Any, ascii_only: bool) -> None:
    try:
        body = json.dumps(value, ensure_ascii=ascii_only).encode()
        masked = mask_json(body, PATTERNS)
    except (CannotRedact, UnicodeEncodeError):
        return
    assert len(masked) == len(body)
    assert json.loads(masked) == json.loads(json.dumps(mask_value(value, PATTERNS)))
