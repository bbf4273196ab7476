"""Settings of a gateway that keeps everything it writes in one folder, in front of a test's own backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controlplane.identity.development import DevelopmentIssuer
from controlplane.settings import Settings
from tests.real.conftest import ROOT

SHIPPED = ROOT / "policies"
FILES = {"path": "ledger.sqlite", "signing_key": "signing.key", "commitment_key": "commitment.key"}
STALL_LIMIT_S = 30  # of the ledger, on a machine whose disk is busy


def settings_in(
    folder: Path, issuer: DevelopmentIssuer, backends: dict[str, Any], policies: Path = SHIPPED
) -> Settings:
    audit = {name: folder / file for name, file in FILES.items()}
    return Settings.model_validate(
        {
            "state": folder / "state",
            "server": {"http_port": 0, "grpc_port": 0},
            "identity": {"issuer": issuer.issuer, "audience": issuer.audience, "jwks_file": issuer.jwks_file},
            "policy": {"path": policies},
            "audit": audit | {"stall_limit_s": STALL_LIMIT_S},
            "backends": backends,
            "adaptation": {"enabled": False},  # a full machine would be throttled, as it should be
        }
    )
