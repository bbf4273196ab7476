"""What a request's content may point at. Pure.

A model server fetches the images, sounds and files that a message names by URL, from inside the operator's network, and
keeps media and files under names that every caller shares. Media within the request is the caller's own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from inference.errors import BackendRejected

points_somewhere = re.compile(rb'_url|"url"|_embeds|"uuid"|file_id|item_reference|\\u00').search
"""Whether a body has to be looked through: without one of these bytes it points at nothing. The last one can spell any
of the others. May be true of text that only talks about URLs."""

CONTENT = (
    "messages",
    "input",
    "system",
    "instructions",
    "documents",
    "query",
    "queries",
    "items",
    "data_1",
    "data_2",
    "text_1",
    "text_2",
)
URLS = frozenset({"image_url", "video_url", "audio_url", "file_url"})
TENSORS = frozenset({"image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"})
MEDIA_TYPES = frozenset({"image", "document", "input_audio", "input_image", "input_file", "image_pil"}) | URLS | TENSORS
WITHIN = "data:"


def check_media(fields: Mapping[str, msgspec.Raw], hosts: Collection[str]) -> None:
    """Raises ``BackendRejected``: ``remote_media``, ``shared_media``, ``unsafe_parameter``, ``stateful_request``, or
    ``invalid_body`` for what cannot be looked through."""
    for name in CONTENT:
        if name in fields:
            _check(_read(fields[name]), hosts)


def _read(content: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BackendRejected("invalid_body", "the body is not valid JSON") from None


def _check(content: Any, hosts: Collection[str]) -> None:
    """Without recursion: how deep content goes is the caller's choice."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            _check_part(part, hosts)
            # what an agent's own tool was called with is data, whatever it is called
            waiting += (
                value for name, value in part.items() if not (name == "input" and part.get("type") == "tool_use")
            )


def _check_part(part: Mapping[str, Any], hosts: Collection[str]) -> None:
    kind = part.get("type")
    if kind == "item_reference" or part.get("file_id") is not None:
        raise BackendRejected("stateful_request", "a message refers to something that the server keeps")
    if any(part.get(name) is not None for name in TENSORS):
        raise BackendRejected("unsafe_parameter", "tensors are not passed on: the server would load them")
    if part.get("uuid") is not None and (kind in MEDIA_TYPES or URLS & part.keys()):
        raise BackendRejected("shared_media", "media named by uuid may be somebody else's: send them in the request")
    for name in URLS & part.keys():
        _check_url(part[name], hosts)
    if kind == "url":
        _check_url(part.get("url"), hosts)


def _check_url(value: Any, hosts: Collection[str]) -> None:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or url[: len(WITHIN)].lower() == WITHIN:
        return
    try:
        parts = urlsplit(url)
        is_known = parts.scheme in ("http", "https") and parts.hostname in hosts and "\\" not in url
    except ValueError:
        is_known = False
    if not is_known:
        raise BackendRejected("remote_media", "the server may not fetch media from there: send a data: URL")
