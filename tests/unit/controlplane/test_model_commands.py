"""`controlplane models` against the real operator API: what is typed becomes a recorded change, or a clear refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from controlplane.cli import main

MODEL = {
    "name": "risk",
    "state": "HEALTHY",
    "versions": [1, 2],
    "labels": {"stable": 1, "canary": 2},
    "canary_percent": 5,
    "shadow_version": 2,
    "shadow_percent": 50,
    "previous": [3],
    "replicas": [{"name": "a:1", "versions": [1, 2]}, {"name": "b:1", "versions": []}],
}


@dataclass
class Gateway:
    """Remembers what it was asked, and answers ``status`` and ``document``."""

    folder: Path
    status: int = 200
    document: Any = field(default_factory=lambda: {"event_id": "e1", "ledger_index": 7})
    asked: list[tuple[str, str, str, Any]] = field(default_factory=list)
    port: int = 0

    def run(self, *arguments: str) -> Result:
        token = self.folder / "token"
        token.write_text("secret\n")
        where = ["--url", f"http://127.0.0.1:{self.port}/", "--token-file", str(token)]
        return CliRunner().invoke(main, ["models", *arguments, *where])


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            said = json.loads(body) if body else None
            gateway.asked.append((self.command, self.path, self.headers["authorization"], said))
            self.send_response(gateway.status)
            self.end_headers()
            self.wfile.write(json.dumps(gateway.document).encode())

        do_GET = do_POST = _answer  # noqa: N815  the base class's names

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    gateway.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield gateway
    server.shutdown()
    thread.join()
    server.server_close()


WHY = {"reason": "because", "key": ""}


@pytest.mark.parametrize(
    ("typed", "path", "body"),
    [
        (["load", "risk", "2"], "load", {"version": 2}),
        (["unload", "risk", "2"], "unload", {"version": 2}),
        (["label", "risk", "stable", "2"], "labels", {"label": "stable", "version": 2}),
        (["canary", "risk", "2", "5"], "canary", {"version": 2, "percent": 5}),
        (["shadow", "risk", "2", "0"], "shadow", {"version": 2, "percent": 0}),
        (["rollback", "risk"], "rollback", {}),
        (["release", "risk", "1"], "release", {"version": 1}),
    ],
)
def test_a_command_is_one_change_with_its_reason(
    gateway: Gateway, typed: list[str], path: str, body: dict[str, Any]
) -> None:
    told = gateway.run(*typed, "--reason", "because")
    assert (told.exit_code, told.output) == (0, "done; ledger entry 7 (e1)\n")
    assert gateway.asked == [("POST", f"/api/models/risk/{path}", "Bearer secret", body | WHY)]


def test_without_a_reason_nothing_is_asked(gateway: Gateway) -> None:
    assert gateway.run("rollback", "risk").exit_code == 2
    assert gateway.asked == []


def test_a_refusal_is_told_in_the_gateway_s_words(gateway: Gateway) -> None:
    gateway.status, gateway.document = 409, {"reason": "no_previous", "detail": "there is no previous version of risk"}
    told = gateway.run("rollback", "risk", "--reason", "because")
    assert (told.exit_code, told.output) == (1, "Error: 409 no_previous: there is no previous version of risk\n")


@pytest.mark.parametrize("document", [["a list"], {"hello": "somebody else's service"}])
@pytest.mark.parametrize("typed", [["list"], ["rollback", "risk", "--reason", "because"]])
def test_what_is_no_gateway_is_told_so(gateway: Gateway, document: Any, typed: list[str]) -> None:
    gateway.document = document
    told = gateway.run(*typed)
    assert (told.exit_code, "what answers there is no gateway" in told.output) == (1, True)


def test_an_address_that_is_none_is_told_so(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    told = CliRunner().invoke(main, ["models", "list", "--url", "nonsense", "--token-file", str(tmp_path / "token")])
    assert (told.exit_code, told.output) == (
        1,
        "Error: no answer from nonsense: unknown url type: 'nonsense/api/models'\n",
    )


@pytest.mark.parametrize("content", [b"", b"\n", b"se\ncret", b"Bearer secret", b"\xff\xfes\x00"])
def test_a_file_that_holds_no_token_is_named_and_not_shown(gateway: Gateway, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "no-token"
    file.write_bytes(content)
    where = ["--url", f"http://127.0.0.1:{gateway.port}", "--token-file", str(file)]
    told = CliRunner().invoke(main, ["models", "list", *where])
    assert (told.exit_code, "does not hold a token" in told.output, "cret" in told.output) == (1, True, False)
    assert gateway.asked == []


def test_what_is_no_problem_document_is_told_by_its_status(gateway: Gateway) -> None:
    gateway.status, gateway.document = 502, ["from a proxy"]
    assert "Error: 502 Bad Gateway" in gateway.run("list").output


def test_a_gateway_that_is_not_there_is_told_without_a_traceback(gateway: Gateway) -> None:
    gateway.port = 1
    told = gateway.run("list")
    assert told.exit_code == 1
    assert told.output.startswith("Error: no answer from http://127.0.0.1:1/")


def test_models_are_listed_for_people_and_for_programs(gateway: Gateway) -> None:
    gateway.document = {"models": [MODEL, MODEL | {"name": "chat", "state": "", "versions": [], "replicas": []}]}
    shown = gateway.run("list").output
    for line in (
        "risk  HEALTHY",
        "  versions 1, 2",
        "  label stable -> 1",
        "  canary: 5 % of the agents",
        "  shadow: 50 % of the predictions copied to 2",
        "  rollback leads to 3",
        "  replica b:1 serves nothing",
        "chat  not watched",
    ):
        assert line in shown.splitlines()
    assert json.loads(gateway.run("list", "--json").output)[0] == MODEL


def test_the_files_of_a_server_are_written_as_the_gateway_remembers(tmp_path: Path) -> None:
    backend = {"kind": "tfserving", "models": {"risk": "/models/risk", "new": "/models/new"}}
    identity = {"issuer": "urn:i", "audience": "urn:a", "jwks_file": "jwks.json"}
    document = {"state": str(tmp_path), "identity": identity, "backends": {"tfs": backend}}
    (tmp_path / "cp.yaml").write_text(json.dumps(document))
    (tmp_path / "deployment-tfs.json").write_text('{"risk": {"versions": [1, 2], "labels": {"stable": 2}}}')
    where = ["--config", str(tmp_path / "cp.yaml"), "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(main, ["models", "render-tfserving", "tfs", *where])
    assert told.exit_code == 0, told.output
    assert f"--model_config_file={tmp_path}/out/models.config" in told.output
    assert "versions: 2" in (tmp_path / "out/models.config").read_text()
    assert "max_batch_size { value: 32 }" in (tmp_path / "out/batching.config").read_text()
    wrong = CliRunner().invoke(main, ["models", "render-tfserving", "nobody", *where])
    assert (wrong.exit_code, "no backend 'nobody'" in wrong.output) == (1, True)


def test_an_answer_to_a_review_goes_where_the_monitor_may_not_write(gateway: Gateway) -> None:
    result = gateway.run("review", "risk", "retrain", "--reason", "because")
    assert result.exit_code == 0, result.output
    assert gateway.asked == [("POST", "/api/reviews/risk", "Bearer secret", {"answer": "retrain", **WHY})]
    assert gateway.run("review", "risk", "whatever", "--reason", "because").exit_code != 0
