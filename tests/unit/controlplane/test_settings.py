"""Settings: one file plus environment; everything that is wrong with them is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.settings import OpenAiBackend, SettingsError, TfServingModels, load

SOUND = "identity: {issuer: 'urn:i', audience: 'urn:a', jwks_file: keys.json}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "controlplane.yaml"


def problems(file: Path, text: str | bytes) -> list[str]:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SettingsError) as caught:
        load(file)
    return [problem.replace(str(file), "FILE") for problem in caught.value.problems]


def test_what_is_not_said_has_its_default(file: Path) -> None:
    file.write_text(SOUND)
    settings = load(file)
    assert (settings.server.http_port, settings.server.host, settings.registry) == (8080, "127.0.0.1", None)


def test_settings_are_frozen(file: Path) -> None:
    file.write_text(SOUND)
    settings = load(file)
    with pytest.raises(ValueError, match="frozen"):
        settings.registry = Path("other")  # type: ignore[misc]  # what must fail


def test_the_environment_beats_the_file_and_leaves_the_rest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(SOUND + "server: {http_port: 1000, grpc_port: 2000}\n")
    monkeypatch.setenv("CONTROLPLANE_SERVER__HTTP_PORT", "9000")
    monkeypatch.setenv("CONTROLPLANE_IDENTITY__AUDIENCE", "urn:other")
    monkeypatch.setenv("CONTROLPLANE_REGISTRY", "tools.yaml")
    settings = load(file)
    assert (settings.server.http_port, settings.server.grpc_port) == (9000, 2000)
    assert (settings.identity.audience, settings.identity.issuer) == ("urn:other", "urn:i")
    assert settings.registry == Path("tools.yaml")


def test_several_faults_are_listed_at_once(file: Path) -> None:
    text = """
identity: {issuer: 'urn:i', audienc: x}
server: {http_port: 99999, bogus: 1}
servr: {}
backends:
  a: {kind: unheard-of}
  b: {kind: tfserving, target: 7}
  c: {kind: openai}
"""
    assert sorted(problem.partition(": ")[2].partition(": ")[0] for problem in problems(file, text)) == [
        "backends.a",
        "backends.b.tfserving.target",
        "backends.c.openai.base_url",
        "identity.audienc",
        "identity.audience",
        "server.bogus",
        "server.http_port",
        "servr",
    ]


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("CONTROLPLANE_SERVR__HTTP_PORT", "environment: CONTROLPLANE_SERVR__HTTP_PORT: there is no section servr"),
        (
            "CONTROLPLANE_SERVER__HTP_PORT",
            "environment: CONTROLPLANE_SERVER__HTP_PORT: server.htp_port: Extra inputs are not permitted",
        ),
        ("CONTROLPLANE_SERVER", 'environment: error parsing value for field "server" from source "EnvSettingsSource"'),
    ],
)
def test_a_misspelt_variable_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, said: str) -> None:
    monkeypatch.setenv(variable, "9000x" if variable.endswith("R") else "9000")
    assert problems(file, SOUND) == [said]


def test_a_fault_is_told_with_its_line(file: Path) -> None:
    text = (
        SOUND
        + """server:
  host: 0.0.0.0
  http_port: eighty
backends:
  a:
    kind: openai
    base_url: nonsense
"""
    )
    assert [problem.partition(" Input")[0] for problem in problems(file, text)] == [
        "FILE:4: server.http_port:",
        "FILE:8: backends.a.openai.base_url:",
    ]


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        ("CONTROLPLANE_SERVER__HTTP_PORT", "eighty", "server.http_port"),
        ("CONTROLPLANE_SERVER", '{"grpc_port": "eighty"}', "server.grpc_port"),
        ("CONTROLPLANE_BACKENDS__A__BASE_URL", "nonsense", "backends.a.openai.base_url"),
    ],
)
def test_what_the_environment_says_is_not_blamed_on_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, place: str
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("CONTROLPLANE_STATE", "elsewhere")
    text = SOUND + "server: {http_port: 1}\nbackends: {a: {kind: openai, base_url: 'http://127.0.0.1:1/v1'}}\n"
    (problem,) = problems(file, text)
    assert problem.startswith(f"environment: {variable}: {place}: ")


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_no_settings(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(SOUND)
    monkeypatch.setenv("CONTROLPLANE_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("CONTROLPLANE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("CONTROLPLANE_CONFIG", str(file))
    assert load(file).server.http_port == 8080


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "FILE: identity: Field required"),
        ("- a list\n", "FILE: settings are a mapping of names to values"),
        ("a sentence\n", "FILE: settings are a mapping of names to values"),
        ("identity: {issuer: 'é'}".encode("latin-1"), "FILE: not UTF-8"),
        (SOUND + "server: {http_port: 1}\nserver: {http_port: 2}\n", "FILE:3: key 'server' stands here twice"),
        ("a: [", "FILE:2: did not find expected node content"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(file: Path, text: str | bytes, said: str) -> None:
    (problem,) = problems(file, text)
    assert problem == said or (text == "a: [" and problem.startswith("FILE:"))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "nothing.yaml")
    with pytest.raises(SettingsError, match="directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ("server: {http_port: 7, grpc_port: 7}", "server.http_port and server.grpc_port"),
        ("server: {http_port: 7}\ntelemetry: {metrics_port: 7}", "server.http_port and telemetry.metrics_port"),
    ],
)
def test_two_things_on_one_port_are_refused(file: Path, ports: str, said: str) -> None:
    assert problems(file, SOUND + ports) == [f"FILE: {said} must differ"]


def test_free_ports_may_be_asked_for_several_times(file: Path) -> None:
    file.write_text(SOUND + "server: {http_port: 0, grpc_port: 0}\ntelemetry: {metrics_port: 0}\n")
    assert load(file).server.grpc_port == 0


def test_backends_are_told_apart_by_their_kind(file: Path) -> None:
    file.write_text(SOUND + "backends: {a: {kind: tfserving}, b: {kind: openai, base_url: 'http://127.0.0.1:1/v1'}}\n")
    backends = load(file).backends
    assert (type(backends["a"]), type(backends["b"])) == (TfServingModels, OpenAiBackend)
