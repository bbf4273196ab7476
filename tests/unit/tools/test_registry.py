"""The registry file: everything wrong is said at once, and nothing wrong is let through."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.tools.registry import Registry, RegistryError, load_registry


def load(tmp_path: Path, text: str) -> Registry:
    path = tmp_path / "tools.yaml"
    path.write_text(text)
    return load_registry(path)


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(RegistryError) as caught:
        load(tmp_path, text)
    return str(caught.value)


def test_lists_the_three_kinds_of_upstream(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    registry = load(
        tmp_path,
        f"""
        http_tools:
          - {{name: refund, url: "https://tools.example/refund", method: PUT, timeout_s: 5,
              credential: {{file: {secret}, header: X-Api-Key, prefix: ""}}}}
        mcp_servers:
          - {{name: files, url: "http://127.0.0.1:9000/mcp"}}
        stdio_servers:
          - {{name: time, command: mcp-server-time, args: [--local-timezone, UTC], env: [TZ]}}
        """,
    )
    assert registry.http_tools[0].credential is not None
    assert registry.http_tools[0].credential.as_header() == ("x-api-key", "s3cret")
    assert [server.name for server in registry.mcp_servers] == ["files"]
    assert registry.stdio_servers[0].args == ("--local-timezone", "UTC")


def test_an_empty_file_lists_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Registry()


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    said = problems(
        tmp_path,
        """
        http_tools:
          - {name: "../etc", url: "ftp://tools.example"}
        mcp_servers:
          - {name: files, url: "http://user:secret@host/", colour: red}
        surprise: 1
        """,
    )
    for expected in ("http_tools.0.name", "http_tools.0.url", "mcp_servers.0.url", "colour", "surprise"):
        assert expected in said


def test_one_name_serves_one_mcp_server_however_it_is_reached(tmp_path: Path) -> None:
    said = problems(
        tmp_path,
        """
        mcp_servers: [{name: files, url: "http://127.0.0.1/mcp"}]
        stdio_servers: [{name: files, command: x}]
        """,
    )
    assert "'files' is used 2 times" in said


def test_a_key_that_stands_twice_is_an_error_and_not_a_choice(tmp_path: Path) -> None:
    assert "stands 2 times" in problems(tmp_path, "http_tools: []\nhttp_tools: []\n")


def test_the_name_of_our_own_mcp_server_is_taken(tmp_path: Path) -> None:
    assert "'models' is ours" in problems(tmp_path, 'mcp_servers: [{name: models, url: "http://h/"}]')


def test_a_credential_that_cannot_be_read_is_found_at_start(tmp_path: Path) -> None:
    said = problems(tmp_path, f'mcp_servers: [{{name: a, url: "http://h/", credential: {{file: {tmp_path / "no"}}}}}]')
    assert "a: credential" in said


def test_a_missing_file_is_a_registry_error(tmp_path: Path) -> None:
    with pytest.raises(RegistryError):
        load_registry(tmp_path / "none.yaml")
