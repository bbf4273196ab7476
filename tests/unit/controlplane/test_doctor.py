"""What is unsound is found, told with what to do, and a danger is a failing exit code."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from controlplane.cli import main

ROOT = Path(__file__).parents[3]


class ModelServer(ThreadingHTTPServer):
    """Refuses whoever has no key, except on the paths of ``open``."""

    daemon_threads = True
    open: frozenset[str] = frozenset()


class Answer(BaseHTTPRequestHandler):
    server: ModelServer

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200 if self.path in self.server.open else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815  the name that http.server asks for

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def config(tmp_path: Path, server: ModelServer) -> Path:
    (tmp_path / "keys.json").touch()
    file = tmp_path / "controlplane.yaml"
    file.write_text(
        f"identity: {{issuer: 'https://i', audience: a, jwks_file: {tmp_path / 'keys.json'}}}\n"
        f"policy: {{path: {ROOT / 'policies'}}}\n"
        f"audit: {{path: {tmp_path / 'l.sqlite'}, signing_key: {tmp_path / 's'}, commitment_key: {tmp_path / 'c'}}}\n"
        f"backends: {{vllm: {{kind: openai, base_url: 'http://127.0.0.1:{server.server_address[1]}/v1'}}}}\n"
    )
    return file


def run(config: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["doctor", "--config", str(config), *options])


def found(config: Path) -> dict[str, str]:
    """Severity by name."""
    told = run(config, "--json")
    return {one["name"]: one["severity"] for one in map(json.loads, told.output.splitlines())}


def test_a_sound_installation_is_fine(config: Path) -> None:
    told = run(config)
    assert (told.exit_code, "DANGER" in told.output) == (0, False), told.output
    assert "backend vllm: whoever has no key is refused" in told.output


def test_a_way_around_the_gateway_is_a_danger_and_says_what_to_do(config: Path, server: ModelServer) -> None:
    server.open = frozenset({"/invocations"})
    told = run(config)
    assert told.exit_code == 1
    assert "DANGER  backend vllm: POST /invocations answers 200" in told.output
    assert "let nobody but the gateway connect" in told.output


def test_a_key_that_others_can_read_is_a_danger(config: Path, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("secret")
    for mode in (0o604, 0o620):
        (tmp_path / "s").chmod(mode)
        assert found(config)["key_exposed"] == "danger"
    (tmp_path / "s").chmod(0o640)
    assert found(config)["key_of_group"] == "warning", "so Kubernetes mounts a Secret, and the gateway takes it"
    (tmp_path / "s").chmod(0o600)
    assert "key_exposed" not in found(config)


def test_files_that_the_gateway_will_miss_are_dangers(config: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.json").unlink()
    (tmp_path / "registry.yaml").write_text("http_tools: [{name: refund, urll: x}]\n")
    text = config.read_text().replace("kind: openai", f"kind: openai, api_key_file: {tmp_path / 'key'}")
    config.write_text(f"{text}registry: {tmp_path / 'registry.yaml'}\n")
    told = run(config)
    assert told.exit_code == 1
    assert f"identity.jwks_file: {tmp_path / 'keys.json'} cannot be read" in told.output
    assert f"backends.vllm.api_key_file: {tmp_path / 'key'} cannot be read" in told.output
    assert "http_tools.0.urll: Extra inputs are not permitted" in told.output


def test_models_without_a_server_are_named(config: Path) -> None:
    assert found(config)["no_backend"] == "warning"


def test_a_broken_policy_is_a_danger(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text().replace(str(ROOT / "policies"), str(tmp_path / "none")))
    assert found(config)["broken_policy"] == "danger"


def test_unusable_settings_are_all_there_is_to_say(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("nonsense: 1\n")
    told = run(tmp_path / "c.yaml")
    assert told.exit_code == 1
    assert "nonsense" in told.output
