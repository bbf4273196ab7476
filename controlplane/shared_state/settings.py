"""Where Redis is and how it is reached."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, model_validator


class RedisSettings(BaseModel, frozen=True, extra="forbid"):
    url: str = Field(
        description="`redis://host:6379/0`, or `rediss://` with TLS, which all but loopback addresses need; "
        "no user or password in it."
    )
    username: str = Field(default="", description="User of Redis' access lists; empty: the default one.")
    password_file: Path | None = Field(default=None, description="File that holds the password; none: there is none.")
    ca_file: Path | None = Field(
        default=None, description="PEM file of the authority that signed the server's certificate; none: the system's."
    )
    insecure: bool = Field(
        default=False, description="Allow a connection without TLS to another machine, as on a closed network."
    )
    max_connections: int = Field(default=64, ge=1, description="Connections of this gateway to Redis at most (count).")
    connect_timeout_s: float = Field(default=0.5, gt=0, description="Seconds that connecting may take.")

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ValueError("url must be redis://host or rediss://host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("no secrets in url: name them by username and password_file")
        if parts.scheme == "redis" and not self.insecure and not _is_loopback(parts.hostname):
            raise ValueError("url must be rediss:// for another machine, or insecure must be set")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
