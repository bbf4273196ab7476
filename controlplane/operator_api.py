"""The operator API of a running gateway, as commands of the command line speak to it."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from audit.visible import visible

TIMEOUT_S = 120.0  # a large model takes its time to load
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

gateway_url = click.option(
    "--url",
    default="http://127.0.0.1:8080",
    show_default=True,
    envvar="CONTROLPLANE_URL",
    help="Where the gateway's operator API is.",
)
operator_token = click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    envvar="CONTROLPLANE_TOKEN_FILE",
    help="File with an operator's token; see `controlplane token`.",
)


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
        return visible(f"{error.code} {problem['reason']}: {problem['detail']}")
    except (ValueError, KeyError, TypeError):
        return visible(f"{error.code} {error.reason}")
