"""The development issuer and the ``token`` command, believed by the real identity."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner

from controlplane.identity import IdentitySettings, TokenIdentity, Unauthenticated
from controlplane.identity.commands import token
from controlplane.identity.development import DEVELOPMENT_AUDIENCE, DEVELOPMENT_ISSUER, DevelopmentIssuer, Grant
from controlplane.identity.metadata import challenge, protected_resource_metadata
from tests.unit.identity.issuer import settings


def run(directory: Path, *extra: str) -> str:
    said = ["--subject", "agent:analyst", "--tenant", "acme", "--directory", str(directory), *extra]
    result = CliRunner().invoke(token, said)
    assert result.exit_code == 0, result.output
    return result.output.strip()


async def test_issued_token_is_believed_by_a_gateway_that_believes_the_issuer(tmp_path: Path) -> None:
    credential = run(
        tmp_path, "--ttl", "15m", "--kind", "service", "--act", "agent:b", "--act", "user:c",
        "--claim", "clearance=3", "--claim", "purpose=research", "--scope", "read write",
    )  # fmt: skip
    chosen = IdentitySettings(
        issuer=DEVELOPMENT_ISSUER, audience=DEVELOPMENT_AUDIENCE, jwks_file=tmp_path / "development-jwks.json"
    )
    async with TokenIdentity(chosen) as identity:
        principal = await identity.authenticate(credential)
        with pytest.raises(Unauthenticated, match="wrong_audience"):
            await identity.authenticate(run(tmp_path, "--audience", "urn:elsewhere"))
    assert (principal.subject, principal.tenant, principal.kind) == ("agent:analyst", "acme", "service")
    assert principal.chain == ("agent:b", "user:c")
    assert principal.claims == {"clearance": 3, "purpose": "research"}
    assert principal.scopes == {"read", "write"}


def test_private_key_is_for_its_owner_alone_and_the_set_holds_no_secret(tmp_path: Path) -> None:
    DevelopmentIssuer(tmp_path)
    key = tmp_path / "development-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert set(json.loads((tmp_path / "development-jwks.json").read_text())["keys"][0]) == {
        "kty", "crv", "x", "y", "kid", "alg", "use",
    }  # fmt: skip


def test_key_is_made_once(tmp_path: Path) -> None:
    DevelopmentIssuer(tmp_path)
    before = (tmp_path / "development-key.pem").read_bytes()
    DevelopmentIssuer(tmp_path)
    assert (tmp_path / "development-key.pem").read_bytes() == before


def test_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    DevelopmentIssuer(tmp_path)
    (tmp_path / "development-key.pem").chmod(0o644)
    result = CliRunner().invoke(token, ["--subject", "a", "--tenant", "t", "--directory", str(tmp_path)])
    assert result.exit_code == 1
    assert "chmod 600" in result.output


def test_claims_cannot_overwrite_what_the_issuer_says(tmp_path: Path) -> None:
    issued = DevelopmentIssuer(tmp_path).issue(Grant(subject="a", tenant="t", claims={"iss": "x", "tenant": "other"}))
    said = jwt.decode(issued, options={"verify_signature": False})
    assert (said["iss"], said["tenant"]) == (DEVELOPMENT_ISSUER, "t")


@pytest.mark.parametrize(
    "extra",
    [
        ["--ttl", "0s"],
        ["--ttl", "1w"],
        ["--claim", "novalue"],
        ["--kind", "admin"],
        ["--subject", ""],
        ["--tenant", " "],
        ["--act", ""],
        ["--subject", "a\nb"],
        ["--claim", "sub=agent:other"],
        ["--claim", "tenant=x"],
    ],
)
def test_what_cannot_be_understood_is_refused(tmp_path: Path, extra: list[str]) -> None:
    said = ["--subject", "a", "--tenant", "t", "--directory", str(tmp_path), *extra]
    assert CliRunner().invoke(token, said).exit_code == 2


METADATA = "https://gateway.example/.well-known/oauth-protected-resource"


def test_challenge_names_the_metadata_and_what_was_wrong() -> None:
    chosen = settings(resource_metadata_url=METADATA)
    assert challenge(chosen, "no_credential") == f'Bearer resource_metadata="{METADATA}"'
    assert challenge(chosen, "expired") == (
        f'Bearer resource_metadata="{METADATA}", error="invalid_token", error_description="expired"'
    )
    assert challenge(chosen, "insufficient_scope", scopes=("a", "b")).endswith(
        'error="insufficient_scope", scope="a b"'
    )
    assert challenge(settings(), "no_credential") == "Bearer"


def test_challenge_names_the_login_that_a_good_token_lacks() -> None:
    """RFC 9470 §3."""
    asked = {"acr_values": ["gold", "platinum"], "max_age_s": 60}
    assert challenge(settings(), "step_up_required", step_up=asked) == (
        'Bearer error="insufficient_user_authentication", error_description="step_up_required", '
        'acr_values="gold platinum", max_age="60"'
    )
    assert "acr_values" not in challenge(settings(), "step_up_required", step_up={"max_age_s": 60})


def test_challenge_cannot_be_split() -> None:
    assert challenge(settings(), 'x"\r\nset-cookie: é') == (
        'Bearer error="invalid_token", error_description="xset-cookie: "'
    )


def test_metadata_document_says_where_tokens_come_from() -> None:
    chosen = settings(scopes_supported=("tools.call",))
    assert protected_resource_metadata(chosen) == {
        "resource": "https://gateway.example",
        "authorization_servers": ["https://issuer.example"],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["tools.call"],
    }
    assert protected_resource_metadata(settings(), resource="https://gateway.example/mcp/time") == {
        "resource": "https://gateway.example/mcp/time",
        "authorization_servers": ["https://issuer.example"],
        "bearer_methods_supported": ["header"],
    }
