"""What a client without a good token is told: where to get one (RFC 9728) and what was wrong (RFC 6750 §3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.identity.settings import IdentitySettings

WELL_KNOWN_PATH = "/.well-known/oauth-protected-resource"


def protected_resource_metadata(settings: IdentitySettings, *, resource: str | None = None) -> dict[str, Any]:
    """The RFC 9728 §2 document. ``resource`` overrides the identifier for a resource below ours."""
    document: dict[str, Any] = {
        "resource": resource or settings.audience,
        "authorization_servers": [settings.issuer],
        "bearer_methods_supported": ["header"],
    }
    if settings.scopes_supported:
        document["scopes_supported"] = list(settings.scopes_supported)
    return document


def challenge(
    settings: IdentitySettings, reason: str, *, scopes: tuple[str, ...] = (), step_up: Mapping[str, Any] | None = None
) -> str:
    """The ``WWW-Authenticate`` value for a refusal with the stable word ``reason``.

    A caller who presented nothing gets no error code (RFC 6750 §3.1). ``scopes`` are those the operation needs: given
    with ``insufficient_scope`` alone. ``step_up`` is what a good token lacks (``acr_values``, ``max_age_s``; RFC 9470).
    """
    parameters = {"resource_metadata": settings.resource_metadata_url}
    if reason == "insufficient_scope":
        parameters |= {"error": "insufficient_scope", "scope": " ".join(scopes)}
    elif step_up:
        parameters |= {"error": "insufficient_user_authentication", "error_description": reason}
        parameters["acr_values"] = " ".join(step_up.get("acr_values", ()))
        parameters["max_age"] = str(step_up.get("max_age_s", ""))
    elif reason != "no_credential":
        parameters |= {"error": "invalid_token", "error_description": reason}
    text = ", ".join(f'{name}="{_quotable(value)}"' for name, value in parameters.items() if value)
    return f"Bearer {text}".rstrip()


def _quotable(text: str) -> str:
    """A quoted-string may hold more, but nothing we say needs it, and a header must never be split."""
    return "".join(
        character for character in text if character.isascii() and character.isprintable() and character not in '"\\'
    )
