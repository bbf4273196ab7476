"""A streamed reply on its way through: usage read, what was asked for on the caller's behalf taken out again. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from inference.backend import CLIENT_ERRORS, SERVER_ERRORS, Usage
from inference.errors import BackendBroke
from inference.openai_http.outgoing import Outgoing
from inference.openai_http.wire import UNREADABLE, ReplyFields, UsageFields, message_in, read_reply
from inference.sse import EventTooLong, WholeEvents, read_event, split_events

DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\][ \t]*(?:[\r\n]|$)")
RESPONSE_ENDED = re.compile(rb'"type": ?"response\.(?:completed|incomplete|failed)"')
MESSAGE_ENDED = re.compile(rb'"type": ?"message_stop"')
NO_CHOICE = re.compile(rb'"choices": ?\[\]')  # the usage that we asked for follows the reason to finish
FINISHED = re.compile(rb'"finish_reason": ?"')
ENDINGS: Mapping[str, tuple[bytes, re.Pattern[bytes]]] = {
    "chat": (b"[DONE]", DONE),
    "completions": (b"[DONE]", DONE),
    "responses": (b'"response.', RESPONSE_ENDED),
    "messages": (b'"message_stop"', MESSAGE_ENDED),
}
"""How each protocol says that a stream is whole, with a part of it that is quickly found. Inside JSON a line end and a
quote are always escaped, so no generated text can look like it."""

LAST_WORD = b"data: [DONE]\n\n"

_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ReplyStream:
    """Lets out whole events only, so that words of ours may follow at any moment and still be read.

    Events without ``"usage"`` and ``"error"`` pass unparsed: quotes inside generated text are escaped in JSON, so text
    that talks about them cannot look like these keys.
    """

    __slots__ = (
        "_done",
        "_ending",
        "_events",
        "_fault",
        "_hides_running",
        "_hides_usage",
        "_last",
        "_running",
        "_says_done",
        "_usage",
    )

    def __init__(
        self, usage: Usage, operation: str, outgoing: Outgoing, *, limit_bytes: int, says_done: bool = True
    ) -> None:
        self._usage, self._says_done = usage, says_done
        self._hides_usage, self._hides_running = outgoing.hides_usage, outgoing.hides_running
        self._events, self._ending = WholeEvents(limit_bytes), ENDINGS.get(operation)
        self._done = self._ending is None
        self._running: dict[int, int] = {}  # tokens so far, by choice
        self._last = b""  # the newest events, when they are not sure to be the end
        self._fault: BackendBroke | None = None

    def feed(self, chunk: bytes) -> bytes:
        """What may go on to the caller now, possibly b"". Raises ``BackendBroke``."""
        try:
            whole = self._events.feed(chunk)
        except EventTooLong as error:
            raise BackendBroke("event_too_long", str(error)) from error
        self._look_for_end(whole)
        if b'"usage"' not in whole and b'"error"' not in whole:
            return whole
        return self._sift(whole)

    def check(self) -> None:
        """Raises ``BackendBroke`` when the server has said that it failed. What came before that has been let out."""
        if self._fault is not None:
            raise self._fault

    def end(self) -> bytes:
        """The rest, when the server has ended the stream. SDKs take a stream without ``[DONE]`` for a whole one.

        Not every server says it (``says_done``): there a reason to finish in the last event is enough, and the word is
        said for it.

        Raises:
            BackendBroke: the stream ended before its time.
        """
        rest = self._events.rest
        if DONE.search(rest):  # a server that forgets the last blank line
            self._done = True
        elif rest.strip():
            self._done = False
        if not self._done and not self._says_done and not rest and FINISHED.search(self._last):
            return LAST_WORD
        if not self._done:
            raise BackendBroke("truncated", "the stream ended without saying that it was done")
        return rest

    def _look_for_end(self, whole: bytes) -> None:
        if self._ending is not None:
            part, pattern = self._ending
            if part in whole and pattern.search(whole):
                self._done = True
            elif whole and not self._says_done and (FINISHED.search(whole) or not NO_CHOICE.search(whole)):
                self._last = whole

    def _sift(self, whole: bytes) -> bytes:
        if (data := lone_data(whole)) is not None:
            return self._passed(whole, data)
        kept: list[bytes] = []
        for raw in split_events(whole):
            event = read_event(raw)
            kept.append(raw if event is None else self._passed(raw, event.data))
            if self._fault is not None:
                break
        return b"".join(kept)

    def _passed(self, raw: bytes, data: bytes | str) -> bytes:
        """What the caller gets of one event."""
        try:
            reply = read_reply(data)
        except UNREADABLE:
            return raw
        if reply.error and not _is_callers_fault(reply.error):
            self._fault = BackendBroke("error_event", message_in(reply.error))
            return b""
        if reply.message is not None and reply.message.usage is not None:
            reply.message.usage.note_input_in(self._usage)
        counted = reply.counted
        if counted is None:
            return raw
        self._note(reply, counted)
        if reply.choices == []:
            return b"" if self._hides_usage else raw
        return _without_usage(raw, data) if self._hides_running and reply.choices else raw

    def _note(self, reply: ReplyFields, counted: UsageFields) -> None:
        """A count in a chunk with a choice is that choice's alone; any other is the whole reply's."""
        counted.note_in(self._usage)
        if reply.choices and counted.completion_tokens is not None:
            self._running[reply.choices[0].index] = counted.completion_tokens
            self._usage.output_tokens = sum(self._running.values())


def lone_data(whole: bytes) -> bytes | None:
    """The JSON of a single event of one line, the form in which servers write most of them; None for anything else."""
    is_lone = whole.startswith(b"data: {") and whole.endswith(b"}\n\n") and whole.find(b"\n") == len(whole) - 2
    return whole[6:-2] if is_lone and b"\r" not in whole else None


def _without_usage(raw: bytes, data: bytes | str) -> bytes:
    try:
        fields = _read_fields(data)
    except UNREADABLE:  # a name that is no UTF-8
        return raw
    fields.pop("usage", None)
    return b"data: %b\n\n" % msgspec.json.encode(fields)


def _is_callers_fault(error: object) -> bool:
    code = error.get("code") if isinstance(error, dict) else None
    return isinstance(code, int) and CLIENT_ERRORS <= code < SERVER_ERRORS
