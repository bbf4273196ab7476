"""Starting the demo's parts: each has a port of its own, and what cannot answer yet is asked again."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self

import pytest

from examples.demo.cast import start_gateway
from examples.demo.parts import Part, PartFailed, Parts, free_port
from examples.demo.stage import Stage

SERVED = {"models": [{"backend": name, "replicas": [{"versions": [1]}]} for name in ("tfs", "tfs-baseline")]}


class Gateway(BaseHTTPRequestHandler):
    """Is ready at once, and says what it serves when asked for the third time."""

    asked = 0

    def do_GET(self) -> None:
        body, status = b"{}", 200
        if self.path == "/api/models":
            Gateway.asked += 1
            if Gateway.asked == 1:
                return  # hangs up
            body, status = json.dumps(SERVED).encode(), (503, 200)[Gateway.asked - 2]
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Patient(Parts):
    """Asks three times, and starts nothing."""

    said: Sequence[bool] = ()

    def start(self, name: str, argv: Sequence[str], ready: Callable[[], bool], *, python: str = "") -> Part:
        self.said = [ready() for _ in range(3)]
        raise PartFailed(f"{name} was not started: {argv} {python}")


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_gateway_that_cannot_say_yet_what_it_serves_is_asked_again(tmp_path: Path, port: int) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/gateway.log").write_text("MCP server is up")
    parts = Patient(tmp_path)
    with pytest.raises(PartFailed, match="was not started"):
        start_gateway(parts, Stage(tmp_path, http=port, tokens={"operator": "token"}))
    assert parts.said == [False, False, True]


def test_a_port_that_the_kernel_gives_again_is_not_given_to_a_second_part(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = [free_port(), free_port()]
    offers = iter([offered[0], offered[0], 1, offered[1], 2])

    class Offered(nullcontext["Offered"]):
        def __enter__(self) -> Self:
            return self

        def getsockname(self) -> tuple[str, int]:
            return "127.0.0.1", next(offers)

    monkeypatch.setattr(socket, "create_server", Offered)
    assert [free_port(), free_port()] == [1, 2]
