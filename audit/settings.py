"""Settings of the ledger: where it lives, who signs it, how long a caller may wait."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-*,-~]+$")]
"""Printable ASCII without space and plus: what a C2SP signed note allows as a key name, kept to ASCII."""


class AuditSettings(BaseModel, frozen=True, extra="forbid"):
    path: Path = Field(default=Path("var/audit/ledger.sqlite"), description="SQLite file that holds the ledger.")
    signing_key: Path = Field(
        default=Path("var/audit/signing.key"),
        description="Ed25519 key file that signs checkpoints; created with mode 0600 when both it and the ledger are "
        "absent. The public verifier key is written beside it with the suffix .pub.",
    )
    commitment_key: Path = Field(
        default=Path("var/audit/commitment.key"),
        description="Key file for commitments to bodies; created with mode 0600 when absent.",
    )
    origin: Name = Field(
        default="controlplane.local/audit",
        description="Name of this log in its checkpoints (C2SP origin): a schema-less URL, no spaces, no plus.",
    )
    node: str = Field(
        default="node-1", min_length=1, max_length=200, description="Name of this writer in every record."
    )
    writer: Literal["process", "thread"] = Field(
        default="process",
        description="Where records are hashed, signed and written: in a process of its own, which alone holds the "
        "signing key and leaves the gateway its processor core, or in a thread, with less memory and speed.",
    )
    stall_limit_s: float = Field(
        default=2.0,
        ge=0.1,
        le=30,
        description="Seconds a caller waits at most for a record to be durable before refusal.",
    )
    queue_limit: int = Field(default=8192, ge=1, le=1_000_000, description="Records that may wait; more are refused.")
    batch_limit: int = Field(default=256, ge=1, le=4096, description="Records in one commit at most.")
    retry_ms: int = Field(
        default=250, ge=10, le=5000, description="Milliseconds between attempts to reach a failed store."
    )
