"""A password never stands in a URL, and nothing goes over a foreign network in the clear by accident."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from controlplane.shared_state import RedisSettings

redis = pytest.importorskip("redis", reason="the package redis is not installed (extra: redis)")


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "redis://127.0.0.1:6379/1"},
        {"url": "redis://localhost"},
        {"url": "redis://[::1]:6379"},
        {"url": "rediss://redis.example:6379"},
        {"url": "redis://redis.example", "insecure": True},
    ],
)
def test_safe_addresses_are_taken(fields: dict[str, object]) -> None:
    assert RedisSettings.model_validate(fields).url == fields["url"]


@pytest.mark.parametrize(
    "url",
    ["redis://redis.example", "redis://:word@localhost", "redis://me@localhost", "http://localhost", "redis://", ""],
)
def test_unsafe_addresses_are_not(url: str) -> None:
    with pytest.raises(ValidationError):
        RedisSettings(url=url)


def test_the_password_comes_from_its_file_and_nothing_is_tried_twice(tmp_path: Path) -> None:
    from controlplane.shared_state.connection import connect  # noqa: PLC0415  skipped before where there is no redis

    (tmp_path / "password").write_text("open sesame\n")
    client = connect(RedisSettings(url="rediss://localhost/2", username="gate", password_file=tmp_path / "password"))
    told = client.connection_pool.connection_kwargs
    assert (told["password"], told["username"], told["db"]) == ("open sesame", "gate", 2)
    assert told["retry"].get_retries() == 0
