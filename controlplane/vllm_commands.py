"""`controlplane vllm`: the launch that the catalogue decides, shown or done."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click
import yaml

from controlplane.policy.bundle import build, read_files
from controlplane.policy.documents import BundleError
from inference.launch import Rendered, render

PROGRESS_EVERY_S = 5.0
STOP_LIMIT_S = 30.0
LAUNCH = (
    click.argument("model"),
    click.option(
        "--policies",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("policies"),
        show_default=True,
        help="Policy bundle with the catalogue.",
    ),
    click.option("--python", default="python3", show_default=True, help="Interpreter that has vLLM."),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; keep it private."),
    click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on."),
)


def _launched(command: Callable[..., None]) -> Callable[..., None]:
    """What every launch is told."""
    for each in reversed(LAUNCH):
        command = each(command)
    return command


@click.group()
def vllm() -> None:
    """Start vLLM as the catalogue says, or render how."""


@vllm.command("render")
@_launched
@click.option(
    "--format",
    "form",
    type=click.Choice(["command", "helm"]),
    default="command",
    show_default=True,
    help="A shell command for a GPU host, or values for the chart.",
)
def render_command(*, model: str, policies: Path, python: str, host: str, port: int, form: str) -> None:
    """Print how MODEL is launched. The key is never part of it: vLLM takes it from VLLM_API_KEY."""
    backend, launch = _launch_of(model, policies)
    if form == "helm":
        click.echo(yaml.safe_dump(launch.helm_values(backend), sort_keys=False).rstrip())
        return
    words = [f"{name}={shlex.quote(value)}" for name, value in sorted(launch.environment.items())]
    click.echo(" \\\n  ".join([*words, *map(shlex.quote, launch.command(python, host, port))]))


@vllm.command()
@_launched
@click.option(
    "--api-key-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Key that it asks for."
)
@click.option("--patience-s", default=1800.0, show_default=True, help="Longest time to load the weights, seconds.")
def serve(
    *, model: str, policies: Path, python: str, host: str, port: int, api_key_file: Path | None, patience_s: float
) -> None:
    """Launch MODEL here and stay with it; its own words go to standard error. Ends when it ends."""
    _, launch = _launch_of(model, policies)
    environment = os.environ | dict(launch.environment)
    if api_key_file is not None:
        environment["VLLM_API_KEY"] = _key_in(api_key_file)  # not in the process list
    command = launch.command(python, host, port)
    try:
        server = subprocess.Popen(command, env=environment, stdout=sys.stderr)  # noqa: S603  the operator's own words
    except OSError as error:
        raise click.ClickException(f"{python}: {error.strerror}; --python names one that has vLLM") from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _await_ready(server, f"http://{host}:{port}", patience_s)
        click.echo(f"ready http://{host}:{port}/v1")
        server.wait()
    finally:
        _stop(server)
    raise SystemExit(server.returncode)


def _key_in(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read as a key") from error


def _launch_of(model: str, policies: Path) -> tuple[str, Rendered]:
    """The name of its backend, and its launch."""
    try:
        models = build(read_files(policies)).catalogue.models
    except BundleError as error:
        raise click.ClickException("\n".join(str(problem) for problem in error.problems)) from error
    entry = models.get(model)
    if entry is None:
        raise click.ClickException(f"no model {model} in {policies}/catalog/models.yaml; there are {', '.join(models)}")
    if entry.card.launch is None:
        raise click.ClickException(f"{model} has no card.launch in {policies}/catalog/models.yaml")
    return entry.backend, render(model, entry.card.launch)


def _await_ready(server: subprocess.Popen[bytes], origin: str, patience_s: float) -> None:
    began, told = time.monotonic(), 0.0
    while not _is_ready(origin):
        waited = time.monotonic() - began
        if server.poll() is not None:
            raise click.ClickException(f"vLLM ended with {server.returncode} before it was ready; its words are above")
        if waited > patience_s:
            raise click.ClickException(f"vLLM was not ready after {patience_s:.0f} s")
        if waited - told >= PROGRESS_EVERY_S:
            told = waited
            click.echo(f"loading, {waited:.0f} s", err=True)
        time.sleep(0.25)


def _is_ready(origin: str) -> bool:
    try:
        with urllib.request.urlopen(f"{origin}/health", timeout=2):  # noqa: S310  always http
            return True
    except (urllib.error.URLError, OSError):
        return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
