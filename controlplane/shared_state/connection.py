"""A Redis client that fails fast: who asks has a deadline of its own, and a second try is the caller's choice."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from controlplane.shared_state.settings import RedisSettings


def connect(settings: RedisSettings) -> Redis:
    """Connects when first used; ``aclose`` it when done. Raises ``OSError`` when the password file cannot be read."""
    options: dict[str, Any] = {}
    if settings.password_file is not None:
        options["password"] = settings.password_file.read_text("utf-8").strip()
    if settings.username:
        options["username"] = settings.username
    if settings.ca_file is not None and settings.url.startswith("rediss:"):
        options["ssl_ca_certs"] = str(settings.ca_file)
    return Redis.from_url(
        settings.url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=settings.connect_timeout_s,
        max_connections=settings.max_connections,
        **options,
    )
