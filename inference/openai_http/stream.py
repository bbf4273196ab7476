"""A streamed reply on its way through: usage read, what was asked for on the caller's behalf taken out again. Pure."""

from __future__ import annotations

import re

import msgspec

from inference.backend import Usage
from inference.errors import BackendBroke
from inference.openai_http.wire import CLIENT_ERRORS, SERVER_ERRORS, message_in, read_reply
from inference.sse import EventTooLong, WholeEvents, read_event, split_events

DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*$")
"""At the end of a run of whole events. Inside JSON a line end is always escaped, so no text can look like it."""


class ReplyStream:
    """Lets out whole events only, so that words of ours may follow at any moment and still be read.

    Events without ``"usage"`` and ``"error"`` pass unparsed: quotes inside generated text are escaped in JSON, so text
    that talks about them cannot look like these keys.
    """

    __slots__ = ("_done", "_events", "_fault", "_hides_usage", "_usage")

    def __init__(self, usage: Usage, *, hides_usage: bool, ends_with_done: bool, limit_bytes: int) -> None:
        self._usage, self._hides_usage = usage, hides_usage
        self._events, self._done = WholeEvents(limit_bytes), not ends_with_done
        self._fault: BackendBroke | None = None

    def feed(self, chunk: bytes) -> bytes:
        """What may go on to the caller now, possibly b"". Raises ``BackendBroke``."""
        try:
            whole = self._events.feed(chunk)
        except EventTooLong as error:
            raise BackendBroke("event_too_long", str(error)) from error
        if b"[DONE]" in whole and DONE.search(whole):
            self._done = True
        if b'"usage"' not in whole and b'"error"' not in whole:
            return whole
        return self._sift(whole)

    def check(self) -> None:
        """Raises ``BackendBroke`` when the server has said that it failed. What came before that has been let out."""
        if self._fault is not None:
            raise self._fault

    def end(self) -> bytes:
        """The rest, when the server has ended the stream. SDKs take a stream without ``[DONE]`` for a whole one.

        Raises:
            BackendBroke: the stream ended before its time.
        """
        rest = self._events.rest
        if DONE.search(rest):  # a server that forgets the last blank line
            self._done = True
        elif rest.strip():
            self._done = False
        if not self._done:
            raise BackendBroke("truncated", "the stream ended without saying that it was done")
        return rest

    def _sift(self, whole: bytes) -> bytes:
        kept: list[bytes] = []
        for raw in split_events(whole):
            if self._passes(raw):
                kept.append(raw)
            if self._fault is not None:
                break
        return b"".join(kept)

    def _passes(self, raw: bytes) -> bool:
        event = read_event(raw)
        try:
            reply = read_reply(event.data) if event is not None else None
        except msgspec.DecodeError:
            return True
        if reply is None:
            return True
        if reply.error and not _is_callers_fault(reply.error):
            self._fault = BackendBroke("error_event", message_in(reply.error))
            return False
        if reply.counted is None:
            return True
        reply.counted.note_in(self._usage)
        return not (self._hides_usage and reply.choices == [])


def _is_callers_fault(error: object) -> bool:
    code = error.get("code") if isinstance(error, dict) else None
    return isinstance(code, int) and CLIENT_ERRORS <= code < SERVER_ERRORS
