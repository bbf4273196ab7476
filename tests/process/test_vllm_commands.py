"""A launch from the catalogue: shown for a shell, shown for the chart, done and stayed with."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from controlplane.cli import main
from tests.real.conftest import free_port

ROOT = Path(__file__).parents[2]
STAND_IN = """#!{python}
import http.server, json, os, pathlib, sys
said = dict(word.partition("=")[::2] for word in sys.argv)
noted = [sys.argv[1:], os.environ.get("VLLM_API_KEY"), os.environ["OMP_NUM_THREADS"]]
pathlib.Path({notes!r}).write_text(json.dumps(noted))
if {fails}:
    sys.exit(3)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer((said["--host"], int(said["--port"])), Answer).serve_forever()
"""


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["vllm", *words, "--policies", str(ROOT / "policies")])


def stand_in(folder: Path, *, fails: bool = False) -> Path:
    """What answers to the interpreter's name in place of one with vLLM; it notes how it was called."""
    file = folder / "python"
    file.write_text(STAND_IN.format(python=sys.executable, notes=str(folder / "notes"), fails=fails))
    file.chmod(0o700)
    return file


def test_the_command_starts_what_the_catalogue_says() -> None:
    words = shlex.split(run("render", "tiny", "--port", "8001").output.replace("\\\n", " "))
    assert words[0] == "DO_NOT_TRACK=1"
    assert {"--model=var/tiny-llm", "--served-model-name=tiny", "--port=8001", "--max-num-seqs=16"} <= set(words)


def test_helm_values_are_ones_that_the_chart_takes() -> None:
    values = yaml.safe_load(run("render", "tiny", "--format", "helm").output)
    values["vllm"]["weightsClaim"] = "weights"
    schema = yaml.safe_load((ROOT / "helm/controlplane/values.schema.json").read_text("utf-8"))
    Draft202012Validator(schema["properties"]["vllm"]).validate(values["vllm"])


@pytest.mark.parametrize(("model", "said"), [("risk", "no card.launch"), ("nobody", "no model nobody")])
def test_what_cannot_be_launched_is_said(model: str, said: str) -> None:
    told = run("render", model)
    assert (told.exit_code, said in told.output) == (1, True)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "key").write_text("secret\n")
    command = [sys.executable, "-m", "controlplane.cli", "vllm", "serve", "tiny", "--policies", str(ROOT / "policies")]
    command += [
        "--python",
        str(stand_in(tmp_path)),
        "--port",
        str(free_port()),
        "--api-key-file",
        str(tmp_path / "key"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process
        process.kill()


def test_a_server_is_stayed_with_until_it_is_told_to_end(serving: subprocess.Popen[str], tmp_path: Path) -> None:
    assert serving.stdout is not None
    assert serving.stdout.readline().startswith("ready http://127.0.0.1:")
    arguments, key, threads = yaml.safe_load((tmp_path / "notes").read_text())
    assert (key, threads, "secret" in " ".join(arguments)) == ("secret", "1", False)
    (server,) = children_of(serving.pid)
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(60) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_a_server_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "controlplane.cli", "vllm", "serve", "tiny", "--policies", str(ROOT / "policies")]
    command += ["--python", str(stand_in(tmp_path, fails=True)), "--port", str(free_port())]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (told.returncode, "ended with 3 before it was ready" in told.stderr) == (1, True)


def test_an_interpreter_that_is_not_there_is_said(tmp_path: Path) -> None:
    told = run("serve", "tiny", "--python", str(tmp_path / "none"))
    assert (told.exit_code, "--python names one that has vLLM" in told.output) == (1, True)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
