"""``controlplane token``: a development token on standard output, so that it can be used in a script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from controlplane.identity.development import DEVELOPMENT_AUDIENCE, DevelopmentIssuer, Grant

OWN = frozenset({"iss", "aud", "sub", "client_id", "jti", "iat", "exp", "tenant", "kind", "scope", "act"})
"""Claims that every token has, or that an option of its own sets."""

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Named(click.ParamType[str]):
    """Text that says something: a gateway believes no token without a subject or a tenant."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.strip() or not text.isprintable():
            self.fail("must not be empty, nor more than one line", param, ctx)
        return text


class Duration(click.ParamType[int]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", str(value))
        if found is None:
            self.fail("say for example 90s, 15m, 1h or 1d", param, ctx)
        return int(found[1]) * UNITS_S[found[2]]


class Claim(click.ParamType[tuple[str, Any]]):
    """``name=value``; a value that is JSON is taken as JSON, anything else as text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail("say name=value", param, ctx)
        if name in OWN:
            self.fail(f"{name} is not for --claim to say: see the other options", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


@click.command("token")
@click.option("--subject", type=Named(), required=True, help="Who the token is about, e.g. agent:analyst.")
@click.option("--tenant", type=Named(), required=True, help="The subject's tenant.")
@click.option("--kind", type=click.Choice(["agent", "user", "service"]), default="agent", show_default=True)
@click.option("--ttl", "ttl_s", type=Duration(), default="1h", show_default=True, help="Lifetime: 90s, 15m, 1h, 1d.")
@click.option(
    "--act", "actors", type=Named(), multiple=True, help="An actor of the delegation chain, the current one first."
)
@click.option("--claim", "claims", multiple=True, type=Claim(), help="A further claim, name=value.")
@click.option("--scope", default="", help="Scopes, space separated.")
@click.option("--audience", default=DEVELOPMENT_AUDIENCE, show_default=True, help="The gateway it is for.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var/identity"),
    show_default=True,
    help="Where the development key and its public key set live; made when missing.",
)
def token(directory: Path, audience: str, ttl_s: int, **said: Any) -> None:
    """Issue a development token. Only gateways that believe the development issuer accept it."""
    grant = Grant(
        subject=said["subject"],
        tenant=said["tenant"],
        kind=said["kind"],
        actors=said["actors"],
        scope=said["scope"],
        claims=dict(said["claims"]),
    )
    try:
        issuer = DevelopmentIssuer(directory, audience=audience)
    except (OSError, TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(issuer.issue(grant, ttl_s=ttl_s))
