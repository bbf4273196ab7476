"""How much a client may say before it has said anything: uvicorn with httptools keeps a head of any length."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT_BYTES = 64 * 1024
"""Four of the longest tokens. A head that is whole at the first reading may be somewhat longer."""


class BoundedHeads(HttpToolsProtocol):
    """The server's protocol. It ends connections on which bytes come and neither a head is ever whole nor a body grows:
    endless addresses, fields, trailers and chunk extensions."""

    fruitless_bytes = 0

    def data_received(self, data: bytes) -> None:
        self.fruitless_bytes += len(data)
        super().data_received(data)
        if self.fruitless_bytes > HEAD_LIMIT_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.send_400_response("The head of the request is too long.")
            self.transport.close()

    def on_headers_complete(self) -> None:
        self.fruitless_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.fruitless_bytes = 0
        super().on_body(body)
