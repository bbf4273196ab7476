"""An HTTP server of the standard library in a thread: answers as a function says, remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, Any]  # a status, and bytes as they are or anything else as JSON


@dataclass
class HttpFake:
    origin: str = ""
    answer: Callable[[Asked], Answer] = lambda _: (200, {})
    asked: list[Asked] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def reply_to(self, asked: Asked) -> Answer:
        with self._one_at_a_time:
            self.asked.append(asked)
            return self.answer(asked)


@contextmanager
def http_fake() -> Iterator[HttpFake]:
    fake = HttpFake()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, said = fake.reply_to(Asked(self.command, self.path, headers, body))
            sent = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(sent)), **fake.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - the standard library's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.origin = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
