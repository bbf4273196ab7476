"""`controlplane models`: versions of models, through the operator API of a gateway; and what TF Serving starts with."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from controlplane.settings_file import GATEWAY_CONFIG

TIMEOUT_S = 120.0  # a large model takes its time to load
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_url = click.option(
    "--url",
    default="http://127.0.0.1:8080",
    show_default=True,
    envvar="CONTROLPLANE_URL",
    help="Where the gateway's operator API is.",
)
_token = click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    envvar="CONTROLPLANE_TOKEN_FILE",
    help="File with an operator's token; see `controlplane token`.",
)
_model = click.argument("model")
_version = click.argument("version", type=click.IntRange(min=1))
_percent = click.argument("percent", type=click.IntRange(0, 100))


def _change(command: Callable[..., None]) -> Callable[..., None]:
    """What every change is told besides itself."""
    key = click.option("--key", default="", help="The same key again means the same change again.")
    reason = click.option("--reason", required=True, help="Why, in a sentence; kept in the ledger.")
    return _url(_token(reason(key(command))))


@dataclass(frozen=True, slots=True)
class Api:
    url: str
    token_file: Path

    def ask(self, path: str, field: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer, which has ``field``. Raises ``click.ClickException`` with the gateway's own words."""
        token = _token_in(self.token_file)
        try:
            request = urllib.request.Request(  # noqa: S310  the operator names the address
                self.url.rstrip("/") + path,
                data=None if body is None else json.dumps(body).encode(),
                headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
            )
            with NO_PROXY.open(request, timeout=TIMEOUT_S) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            raise click.ClickException(_words(error)) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise click.ClickException(f"no answer from {self.url}: {error}") from None
        if not isinstance(answer, dict) or field not in answer:
            raise click.ClickException(f"no answer from {self.url}: what answers there is no gateway")
        return answer

    def change(self, model: str, word: str, **body: Any) -> None:
        self.tell(f"/api/models/{quote(model)}/{word}", body)

    def tell(self, path: str, body: Mapping[str, Any]) -> None:
        said = self.ask(path, "ledger_index", body)
        click.echo(f"done; ledger entry {said['ledger_index']} ({said['event_id']})")


def _token_in(path: Path) -> str:
    """Raises ``click.ClickException``, which never says what stands there."""
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise click.ClickException(f"{path} does not hold a token, one line and nothing else; see `controlplane token`")
    return token


def _words(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.load(error)
        return f"{error.code} {problem['reason']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"


@click.group()
def models() -> None:
    """Say which versions of models are served, and to whom."""


@models.command("list")
@_url
@_token
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def list_command(url: str, token_file: Path, *, as_json: bool) -> None:
    """Show models with versions, labels, canary, shadow and replicas."""
    found = Api(url, token_file).ask("/api/models", "models")["models"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for model in found:
        click.echo("\n  ".join(_lines(model)))


def _lines(model: Mapping[str, Any]) -> list[str]:
    lines = [f"{model['name']}  {model['state'] or 'not watched'}"]
    if model["versions"]:
        lines.append("versions " + ", ".join(map(str, model["versions"])))
        lines += [f"label {label} -> {version}" for label, version in sorted(model["labels"].items())]
    if model["canary_percent"]:
        lines.append(f"canary: {model['canary_percent']} % of the agents")
    if model["shadow_percent"]:
        lines.append(f"shadow: {model['shadow_percent']} % of the predictions copied to {model['shadow_version']}")
    if model["previous"]:
        lines.append(f"rollback leads to {model['previous'][-1]}")
    return lines + [f"replica {one['name']} serves {one['versions'] or 'nothing'}" for one in model["replicas"]]


@models.command("load")
@_model
@_version
@_change
def load_command(*, model: str, version: int, url: str, token_file: Path, **why: str) -> None:
    """Serve VERSION of MODEL beside what is served; nobody is sent there."""
    Api(url, token_file).change(model, "load", version=version, **why)


@models.command("unload")
@_model
@_version
@_change
def unload_command(*, model: str, version: int, url: str, token_file: Path, **why: str) -> None:
    """Stop serving VERSION of MODEL, after the calls that are under way."""
    Api(url, token_file).change(model, "unload", version=version, **why)


@models.command("label")
@_model
@click.argument("label")
@_version
@_change
def label_command(*, model: str, label: str, version: int, url: str, token_file: Path, **why: str) -> None:
    """Make LABEL of MODEL mean VERSION. The label `stable` is what everybody gets."""
    Api(url, token_file).change(model, "labels", label=label, version=version, **why)


@models.command("canary")
@_model
@_version
@_percent
@_change
def canary_command(*, model: str, version: int, percent: int, url: str, token_file: Path, **why: str) -> None:
    """Give PERCENT of the agents VERSION of MODEL; 0 ends it."""
    Api(url, token_file).change(model, "canary", version=version, percent=percent, **why)


@models.command("shadow")
@_model
@_version
@_percent
@_change
def shadow_command(*, model: str, version: int, percent: int, url: str, token_file: Path, **why: str) -> None:
    """Copy PERCENT of the predictions to VERSION of MODEL and compare; 0 ends it."""
    Api(url, token_file).change(model, "shadow", version=version, percent=percent, **why)


@models.command("rollback")
@_model
@_change
def rollback_command(*, model: str, url: str, token_file: Path, **why: str) -> None:
    """Give everybody the version of MODEL that was stable before. Ends canary and shadow."""
    Api(url, token_file).change(model, "rollback", **why)


@models.command("release")
@_model
@_version
@_change
def release_command(*, model: str, version: int, url: str, token_file: Path, **why: str) -> None:
    """Let go of the hold that drift left on VERSION of MODEL when another was promoted."""
    Api(url, token_file).change(model, "release", version=version, **why)


@models.command("review")
@_model
@click.argument("answer", type=click.Choice(["healthy", "fallback", "retrain"]))
@_change
def review_command(*, model: str, answer: str, url: str, token_file: Path, **why: str) -> None:
    """Say what shall become of MODEL, which labels have proved wrong: the monitor acts on ANSWER.

    healthy: it is good as it is. fallback: let the fallback answer. retrain: as many trainings as before, once more.
    """
    Api(url, token_file).tell(f"/api/reviews/{quote(model)}", {"answer": answer, **why})


@models.command("render-tfserving")
@click.argument("backend")
@GATEWAY_CONFIG
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("tfserving"),
    show_default=True,
    help="Folder for the three files.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8500, show_default=True, help="Port of gRPC.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Largest batch, rows.")
@click.option(
    "--batch-timeout-ms",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Longest wait for a batch to fill, milliseconds.",
)
def render_command(*, backend: str, config: Path, out: Path, port: int, batch_size: int, batch_timeout_ms: int) -> None:
    """Write what a TensorFlow Serving server for BACKEND starts with, and print the command that starts it.

    Models, versions and labels are those that the gateway remembers; batching has the limits given here.
    """
    from controlplane.settings import SettingsError, TfServingModels, load  # noqa: PLC0415  only this command needs it
    from inference.tfserving.deployment import Deployment  # noqa: PLC0415  likewise
    from inference.tfserving.launch import LaunchSettings, command_line, write_files  # noqa: PLC0415  likewise
    from inference.tfserving.settings import DeploymentSettings  # noqa: PLC0415  likewise

    try:
        settings = load(config)
    except SettingsError as error:
        raise click.ClickException("\n".join(error.problems)) from error
    chosen = settings.backends.get(backend)
    if not isinstance(chosen, TfServingModels):
        raise click.ClickException(f"{config} has no backend {backend!r} of kind tfserving")
    remembered = DeploymentSettings(file=settings.state / f"deployment-{backend}.json", models=chosen.models)
    launch = LaunchSettings(port=port, batch_size=batch_size, batch_timeout_ms=batch_timeout_ms)
    write_files(out, Deployment(remembered, {}).models, launch)
    click.echo(command_line(launch, out))
