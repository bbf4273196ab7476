"""What policy reads of an OpenAI or Anthropic request body, and proof that the model server reads the same.

We decide on our reading and forward the bytes. A body that another parser could read differently is refused: a field
twice (some take the first, we the last), two fields that differ only in case (Go's parser takes either), bytes that are
not UTF-8; and a field that we look for, written in another case. Only the top level is looked at: nothing below it is
decided upon.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from controlplane.gateway.discharges import CHOICE_FIELDS
from controlplane.gateway.problems import BadRequest
from inference.openai_http.parameters import looked_at

MODEL_CHARS = 512  # a name goes into the ledger and into logs; the longest name on any hub is below 100
Tokens = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
"""Some servers read 0 or -1 as "as many as you like", which no rule about a number of tokens would stop."""


ABSENT = msgspec.Raw(b"null")


class Fields(msgspec.Struct):
    """What every request says; each operation adds what policy and routing read of it. The rest passes untouched."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=MODEL_CHARS)]

    @property
    def streams(self) -> bool:
        return False

    @property
    def arguments(self) -> dict[str, Any]:
        return {"model": self.model}


class StreamedFields(Fields):
    stream: bool | None = None

    @property
    def streams(self) -> bool:
        return bool(self.stream)


class ChatFields(StreamedFields):
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    messages: list[msgspec.Raw] = []

    @property
    def cap(self) -> int | None:
        """The larger one where there are two: servers differ in which they take."""
        if self.max_tokens is None or self.max_completion_tokens is None:
            return self.max_completion_tokens if self.max_tokens is None else self.max_tokens
        return max(self.max_tokens, self.max_completion_tokens)

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "max_tokens": self.cap,
            "stream": self.streams,
            "messages_count": len(self.messages),
        }


class CompletionFields(StreamedFields):
    max_tokens: Tokens | None = None
    prompt: msgspec.Raw = ABSENT

    @property
    def arguments(self) -> dict[str, Any]:
        count = count_of(self.prompt)
        return {"model": self.model, "max_tokens": self.max_tokens, "stream": self.streams, "inputs_count": count}


class ResponseFields(StreamedFields):
    max_output_tokens: Tokens | None = None
    input: msgspec.Raw = ABSENT

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "max_tokens": self.max_output_tokens,
            "stream": self.streams,
            "inputs_count": count_of(self.input),
        }


class EmbeddingFields(Fields):
    input: msgspec.Raw = ABSENT

    @property
    def arguments(self) -> dict[str, Any]:
        return {"model": self.model, "inputs_count": count_of(self.input)}


class RerankFields(Fields):
    documents: msgspec.Raw = ABSENT

    @property
    def arguments(self) -> dict[str, Any]:
        return {"model": self.model, "inputs_count": count_of(self.documents)}


class ScoreFields(Fields):
    """vLLM takes the second of the two sides under any of these names."""

    documents: msgspec.Raw = ABSENT
    items: msgspec.Raw = ABSENT
    data_2: msgspec.Raw = ABSENT
    text_2: msgspec.Raw = ABSENT

    @property
    def arguments(self) -> dict[str, Any]:
        sides = (self.documents, self.items, self.data_2, self.text_2)
        return {"model": self.model, "inputs_count": max(map(count_of, sides))}


class MessageFields(StreamedFields):
    max_tokens: Tokens | None = None
    messages: list[msgspec.Raw] = []

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "stream": self.streams,
            "messages_count": len(self.messages),
        }


class CountFields(Fields):
    messages: list[msgspec.Raw] = []

    @property
    def arguments(self) -> dict[str, Any]:
        return {"model": self.model, "messages_count": len(self.messages)}


SHAPES: Mapping[str, type[Fields]] = {
    "chat": ChatFields,
    "completions": CompletionFields,
    "responses": ResponseFields,
    "embeddings": EmbeddingFields,
    "rerank": RerankFields,
    "score": ScoreFields,
    "messages": MessageFields,
    "count_tokens": CountFields,
}
READERS: Mapping[str, Callable[[bytes], Fields]] = {
    operation: msgspec.json.Decoder(shape).decode for operation, shape in SHAPES.items()
}
LOOKED_FOR: Mapping[str, frozenset[str]] = {
    operation: looked_at(operation) | {*shape.__struct_fields__, *CHOICE_FIELDS} for operation, shape in SHAPES.items()
}
"""What anything of ours reads of a request; all of it is written small."""
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_fields(body: bytes, operation: str = "chat") -> Fields:
    """Raises ``BadRequest``: ``invalid_body`` or ``ambiguous_body``."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        fields = READERS[operation](body)
        keys = _keys(body)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadRequest("invalid_body", f"not a valid request: {error}") from None
    except RecursionError:
        raise BadRequest("invalid_body", "not a valid request: nested too deeply") from None
    folded = set(map(str.casefold, keys))
    if len(folded) != len(keys):
        raise BadRequest("ambiguous_body", "a field stands twice in the request")
    if not folded.issuperset(keys) and (misspelt := folded.difference(keys) & LOOKED_FOR[operation]):
        raise BadRequest("ambiguous_body", f"a field must be written {min(misspelt)!r}")
    return fields


def count_of(given: msgspec.Raw) -> int:
    """How many texts ``given`` is: a text or a list of token numbers is one, any other list as many as it holds."""
    if bytes(given) == b"null":
        return 0
    try:
        items = _read_items(given)
    except msgspec.DecodeError:
        return 1
    return 1 if items and bytes(items[0])[:1].isdigit() else len(items)


def _keys(body: bytes) -> list[str]:
    """The names of the fields as often as they stand there.

    Written again from what was read, a body comes out shorter when a name stood twice, or when one was escaped in ways
    that mean nothing. One that comes out as long as it was, spaces aside, has every name once: most clients write such.
    """
    fields = _read_fields(body)
    again = msgspec.json.encode(fields)
    if len(again) == len(body) or len(_without_spaces(again)) == len(_without_spaces(body)):
        return list(fields)
    return [name for name, _ in json.loads(body, object_pairs_hook=list, parse_int=str)]


def _without_spaces(document: bytes) -> bytes:
    return msgspec.json.format(document, indent=-1)
