"""`controlplane models`: versions of models, through the operator API of a gateway; and what TF Serving starts with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from controlplane.operator_api import Api, gateway_url, operator_token
from controlplane.settings_file import GATEWAY_CONFIG

_model = click.argument("model")
_version = click.argument("version", type=click.IntRange(min=1))
_percent = click.argument("percent", type=click.IntRange(0, 100))


def _change(command: Callable[..., None]) -> Callable[..., None]:
    """What every change is told besides itself."""
    key = click.option("--key", default="", help="The same key again means the same change again.")
    reason = click.option("--reason", required=True, help="Why, in a sentence; kept in the ledger.")
    return gateway_url(operator_token(reason(key(command))))


def _tell(api: Api, model: str, word: str, **body: Any) -> None:
    api.tell(f"/api/models/{quote(model)}/{word}", body)


@click.group()
def models() -> None:
    """Say which versions of models are served, and to whom."""


@models.command("list")
@gateway_url
@operator_token
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
    _tell(Api(url, token_file), model, "load", version=version, **why)


@models.command("unload")
@_model
@_version
@_change
def unload_command(*, model: str, version: int, url: str, token_file: Path, **why: str) -> None:
    """Stop serving VERSION of MODEL, after the calls that are under way."""
    _tell(Api(url, token_file), model, "unload", version=version, **why)


@models.command("label")
@_model
@click.argument("label")
@_version
@_change
def label_command(*, model: str, label: str, version: int, url: str, token_file: Path, **why: str) -> None:
    """Make LABEL of MODEL mean VERSION. The label `stable` is what everybody gets."""
    _tell(Api(url, token_file), model, "labels", label=label, version=version, **why)


@models.command("canary")
@_model
@_version
@_percent
@_change
def canary_command(*, model: str, version: int, percent: int, url: str, token_file: Path, **why: str) -> None:
    """Give PERCENT of the agents VERSION of MODEL; 0 ends it."""
    _tell(Api(url, token_file), model, "canary", version=version, percent=percent, **why)


@models.command("shadow")
@_model
@_version
@_percent
@_change
def shadow_command(*, model: str, version: int, percent: int, url: str, token_file: Path, **why: str) -> None:
    """Copy PERCENT of the predictions to VERSION of MODEL and compare; 0 ends it."""
    _tell(Api(url, token_file), model, "shadow", version=version, percent=percent, **why)


@models.command("rollback")
@_model
@_change
def rollback_command(*, model: str, url: str, token_file: Path, **why: str) -> None:
    """Give everybody the version of MODEL that was stable before. Ends canary and shadow."""
    _tell(Api(url, token_file), model, "rollback", **why)


@models.command("release")
@_model
@_version
@_change
def release_command(*, model: str, version: int, url: str, token_file: Path, **why: str) -> None:
    """Let go of the hold that drift left on VERSION of MODEL when another was promoted."""
    _tell(Api(url, token_file), model, "release", version=version, **why)


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
