"""What one connection may cost: uvicorn with httptools keeps a head of any length and waits for a reader for ever."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT_BYTES = 64 * 1024
"""Four of the longest tokens. A head that is whole at the first reading may be somewhat longer."""

UNREAD_LIMIT_S = 60.0
"""How long an answer may wait for its agent, which then reads less than 1 KB a second. No limit of the backend's runs
meanwhile, and the call's place at it is taken."""


class BoundedConnection(HttpToolsProtocol):
    """The server's protocol. It drops trailers, and ends connections on which bytes come but no whole head and no body
    (endless addresses, fields, trailers and chunk extensions), and those whose answer nobody takes.
    """

    unread_limit_s = UNREAD_LIMIT_S
    _fruitless_bytes = 0
    _unread: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._fruitless_bytes += len(data)
        super().data_received(data)
        if self._fruitless_bytes > HEAD_LIMIT_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.send_400_response("The head of the request is too long.")
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._fruitless_bytes = 0
        super().on_headers_complete()
        self.headers = []  # the request keeps its own; a trailer is none of them (RFC 9110 §6.5.1)

    def on_body(self, body: bytes) -> None:
        self._fruitless_bytes = 0
        super().on_body(body)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.unread_limit_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._forget_unread()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_unread()
        super().connection_lost(exc)

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
