"""What a model behind a tool answered is read whatever it is."""

from __future__ import annotations

import pytest

from controlplane.calls import Call
from controlplane.gateway.model_tools import answer_of
from inference.errors import BackendBroke


def asked(operation: str = "chat") -> Call:
    return Call(id="c", door="tools", action="infer", resource="/model/m", operation=operation)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff",
        b"null",
        b"[1]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{"message":"hi"}]}',
        b"[" * 50_000,
    ],
)
def test_an_answer_that_is_no_chat_is_broken(body: bytes) -> None:
    with pytest.raises(BackendBroke) as caught:
        answer_of(asked(), 200, body)
    assert caught.value.reason == "untranslatable"


def test_a_prediction_that_is_none_is_broken() -> None:
    with pytest.raises(BackendBroke):
        answer_of(asked("Predict"), 200, b"\xff")
