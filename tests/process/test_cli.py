"""The command line: help that helps, and faults of the operator's told without a traceback."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from controlplane.cli import main
from examples.demo.parts import free_port

GROUPS = {
    "approvals": "list approve refuse",
    "drift": "status report replay",
    "vllm": "render serve",
    "audit": "verify show tail",
    "policy": "lint test explain",
    "models": "list load unload label canary shadow rollback release review render-tfserving",
}
PLAIN = "gateway monitor token worker costs doctor"
COMMANDS = [
    [],
    *([word] for word in (*PLAIN.split(), *GROUPS)),
    *([group, word] for group, words in GROUPS.items() for word in words.split()),
]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def commands(command: click.Command, path: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from commands(each, [*path, name])


def test_every_command_is_tried_here() -> None:
    assert sorted(path for path, _ in commands(main, [])) == sorted(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_is_for(path: list[str]) -> None:
    for _, each in commands(main, []):
        each._help_option = None  # click keeps it as whoever asked first wanted it, a command alone among them
    for option in ("--help", "-h"):
        told = run(*path, option)
        assert (told.exit_code, told.output.startswith("Usage: ")) == (0, True)


def test_every_option_and_command_is_explained() -> None:
    silent = [" ".join(path) for path, each in commands(main, []) if not (each.help or "").strip()]
    silent += [
        f"{' '.join(path)} {option.opts[-1]}"
        for path, each in commands(main, [])
        for option in each.params
        if isinstance(option, click.Option) and not option.help and not isinstance(option.type, click.Choice)
    ]
    assert not silent


def test_the_version_is_told() -> None:
    assert run("--version").exit_code == 0


@pytest.mark.parametrize("command", ["gateway", "monitor"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {bogus: 1}\ngateway_url: 7\npoll_s: -1\nidentity: {}\n", ["Extra inputs are not permitted"]),
        ("a: 1\na: 2\n", ["key 'a' stands here twice"]),
        ("[", ["FILE"]),
        ("- a list\n", ["FILE"]),
    ],
)
def test_wrong_settings_end_with_1_and_everything_that_is_wrong(
    tmp_path: Path, command: str, text: str, said: list[str]
) -> None:
    file = tmp_path / "FILE"
    file.write_text(text)
    told = run(command, "--config", file)
    assert (told.exit_code, "Traceback" in told.output) == (1, False)
    assert isinstance(told.exception, SystemExit)
    assert all(words in told.output for words in said)
    if "bogus" in text:
        assert len(re.findall(r"FILE:\d: ", told.output)) >= 3, "all at once, each with its line"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gateway_url: nonsense\n", "monitor.yaml:1: gateway_url: Input should be a valid URL"),
        ("models:\n- {name: a, feature_names: [x]}\n- {name: a, feature_names: [y]}\n", "models: a stands here twice"),
        ("state_dir: FOLDER/monitor.yaml\n", "FOLDER/monitor.yaml/monitor.sqlite: "),
        ("state_dir: FOLDER\n", "FOLDER/monitor.sqlite: file is not a database"),
    ],
)
def test_a_monitor_that_cannot_start_says_why(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "monitor.sqlite").write_text("no database at all " * 50)
    text += f"telemetry: {{metrics_port: {free_port()}}}\n"
    (tmp_path / "monitor.yaml").write_text(text.replace("FOLDER", str(tmp_path)))
    told = run("monitor", "--config", tmp_path / "monitor.yaml")
    assert (told.exit_code, isinstance(told.exception, SystemExit)) == (1, True), told.output
    assert said.replace("FOLDER", str(tmp_path)) in told.output


@pytest.mark.parametrize("command", ["gateway", "monitor"])
def test_settings_that_are_not_there_end_with_1(tmp_path: Path, command: str) -> None:
    told = run(command, "--config", tmp_path / "nothing.yaml")
    assert told.exit_code == 1
    assert "No such file or directory" in told.output


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", "21.11.2026"])
@pytest.mark.parametrize("option", ["--since", "--until"])
def test_costs_of_a_day_that_is_none_are_no_costs(tmp_path: Path, option: str, day: str) -> None:
    (tmp_path / "ledger.sqlite").touch()
    told = run("costs", "--ledger", tmp_path / "ledger.sqlite", option, day)
    assert (told.exit_code, option in told.output) == (2, True), told.output


def test_costs_of_what_is_no_ledger_are_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all " * 50)
    told = run("costs", "--ledger", tmp_path / "text")
    assert (told.exit_code, "the ledger cannot be read" in told.output) == (1, True), told.output


@pytest.mark.parametrize("port", ["0", "65536"])
def test_vllm_is_not_launched_on_a_port_that_is_none(port: str) -> None:
    assert run("vllm", "render", "tiny", "--port", port).exit_code == 2


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = {
        "state": str(tmp_path / "state"),
        "server": {"http_port": free_port(), "grpc_port": 0},
        "telemetry": {"metrics_port": free_port()},
        "identity": {"issuer": "urn:i", "audience": "urn:a", "jwks_file": str(tmp_path / "keys.json")},
        "policy": {"path": str(Path(__file__).parents[2] / "policies")},
        "audit": {
            "path": str(tmp_path / "ledger.sqlite"),
            "signing_key": str(tmp_path / "signing.key"),
            "commitment_key": str(tmp_path / "commit.key"),
        },
    }
    (tmp_path / "keys.json").write_text('{"keys": []}')
    path = tmp_path / "controlplane.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def changed(config: Path, section: str, **more: object) -> None:
    settings = yaml.safe_load(config.read_text())
    settings[section] = more["to"] if "to" in more else settings[section] | more
    config.write_text(yaml.safe_dump(settings))


@dataclass
class Started:
    """Gateways as processes of their own; what is left of them is killed when the test is over."""

    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, config: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "controlplane.cli", "gateway", "--config", str(config)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.processes.append(process)
        return process

    def up(self, config: Path) -> subprocess.Popen[str]:
        """Returns when it says that it is up, and is."""
        process = self.start(config)
        assert process.stdout is not None
        assert any("gateway is up" in line for line in process.stdout)
        port = yaml.safe_load(config.read_text())["server"]["http_port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60) as answer:
            assert answer.status == 200
        return process

    def ends(self, config: Path) -> tuple[int, str]:
        """Status and output of one that cannot start."""
        process = self.start(config)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said


@pytest.fixture
def gateways() -> Iterator[Started]:
    gateways = Started()
    yield gateways
    for process in gateways.processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("which", ["http_port", "grpc_port", "metrics_port"])
def test_a_port_that_is_taken_ends_with_1_and_its_number(gateways: Started, config: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        changed(config, "telemetry" if which == "metrics_port" else "server", **{which: port})
        status, said = gateways.ends(config)
    assert (status, "Traceback" in said) == (1, False), said
    assert f"127.0.0.1:{port}" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("section", "more", "said"),
    [
        ("registry", {"to": "nothing.yaml"}, "nothing.yaml"),
        ("audit", {"path": "/proc/nothing/ledger.sqlite"}, "/proc/nothing/ledger.sqlite: the ledger cannot be written"),
    ],
)
def test_what_only_shows_at_the_start_ends_with_1_too(
    gateways: Started, config: Path, section: str, more: dict[str, object], said: str
) -> None:
    changed(config, section, **more)
    status, told = gateways.ends(config)
    assert (status, "Traceback" in told) == (1, False), told
    assert said in told.splitlines()[-1]


def test_a_file_that_is_no_ledger_is_named(gateways: Started, config: Path, tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("no database at all " * 50)
    status, told = gateways.ends(config)
    assert (status, "Traceback" in told) == (1, False), told
    assert told.splitlines()[-1].startswith(f"Error: {tmp_path / 'ledger.sqlite'}: not a ledger")


def test_a_lost_signing_key_is_no_reason_to_make_another(gateways: Started, config: Path, tmp_path: Path) -> None:
    first = gateways.up(config)
    first.terminate()
    first.communicate(timeout=60)
    (tmp_path / "signing.key").unlink()
    status, told = gateways.ends(config)
    assert (status, "Traceback" in told) == (1, False), told
    assert "signing.key" in told.splitlines()[-1]


def test_a_second_gateway_on_one_ledger_is_refused(gateways: Started, config: Path, tmp_path: Path) -> None:
    gateways.up(config)
    changed(config, "server", http_port=0)
    changed(config, "telemetry", metrics_port=0)
    status, told = gateways.ends(config)
    assert (status, told.splitlines()[-1]) == (
        1,
        f"Error: {tmp_path / 'ledger.sqlite'}: the ledger cannot be written: in_use",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(gateways: Started, config: Path, number: signal.Signals) -> None:
    """What was begun is closed: killed by the signal itself it would leave outcomes and spans unwritten."""
    process = gateways.up(config)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (0, False), said


def test_the_model_server_says_in_a_line_why_it_cannot_listen() -> None:
    command = [sys.executable, "-m", "inference.tfserving.server", "--port"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port, said in ((str(taken.getsockname()[1]), "Failed to bind to address"), ("70000", "error: port: ")):
            done = subprocess.run([*command, port], capture_output=True, text=True, timeout=60, check=False)
            assert (done.returncode != 0, "Traceback" in done.stderr) == (True, False), done.stderr
            assert said in done.stderr.splitlines()[-1]
