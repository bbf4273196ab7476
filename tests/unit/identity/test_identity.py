"""What is remembered about a token, and what never is: time, revocation, keys."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.identity import IdentityUnavailable, TokenIdentity, Unauthenticated
from controlplane.identity.denylist import Denylist
from controlplane.identity.keys import VerificationKey
from tests.unit.identity.issuer import (
    EC_PRIVATE,
    ED_PRIVATE,
    Clock,
    Source,
    claims,
    key_set,
    keys_of,
    public,
    settings,
    token,
)


class World:
    """An identity with its clock, its key source and its denylist in hand."""

    def __init__(self, denylist_file: Path | None = None, **changes: Any) -> None:
        self.clock, self.source = Clock(), Source(public(EC_PRIVATE, "ES256"))
        chosen = settings(denylist_file=denylist_file, **changes)
        self.keys = keys_of(chosen, self.source, self.clock)
        self.identity = TokenIdentity(chosen, keys=self.keys, denylist=Denylist(denylist_file), wall_clock=self.clock)

    async def refusal(self, credential: str) -> str:
        with pytest.raises((Unauthenticated, IdentityUnavailable)) as refused:
            await self.identity.authenticate(credential)
        return refused.value.reason


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The messages whose signature was really checked."""
    seen: list[bytes] = []
    real = VerificationKey.verifies

    def counting(key: VerificationKey, message: bytes, signature: bytes) -> bool:
        seen.append(message)
        return real(key, message, signature)

    monkeypatch.setattr(VerificationKey, "verifies", counting)
    return seen


async def test_signature_is_checked_once_per_token(verifications: list[bytes]) -> None:
    world = World()
    await world.keys.refresh()
    good = token()
    principals = [await world.identity.authenticate(good) for _ in range(5)]
    assert len(verifications) == 1
    assert len(set(map(id, principals))) == 1


async def test_bad_token_is_never_remembered(verifications: list[bytes]) -> None:
    world = World()
    await world.keys.refresh()
    bad = token(private=ED_PRIVATE, algorithm="EdDSA")
    assert [await world.refusal(bad) for _ in range(2)] == ["algorithm_refused"] * 2
    forged = token()[:-8] + "AAAAAAAA"
    assert [await world.refusal(forged) for _ in range(2)] == ["bad_signature"] * 2
    assert len(verifications) == 2


async def test_memory_is_bounded(verifications: list[bytes]) -> None:
    world = World(cached_tokens=2)
    await world.keys.refresh()
    tokens = [token(claims(jti=f"t{n}")) for n in range(3)]
    for each in [*tokens, tokens[2], tokens[0]]:
        await world.identity.authenticate(each)
    assert len(verifications) == 4  # the third was still known, the first was not
    assert len(world.identity._verified) == 2


async def test_remembered_token_expires_on_time() -> None:
    world = World()
    await world.keys.refresh()
    good = token()
    await world.identity.authenticate(good)
    world.clock.now_s += 629.9
    await world.identity.authenticate(good)
    world.clock.now_s += 0.1
    assert await world.refusal(good) == "expired"


async def test_remembered_token_dies_with_its_key() -> None:
    world = World()
    await world.keys.refresh()
    good = token()
    await world.identity.authenticate(good)
    world.source.answer = key_set(public(ED_PRIVATE, "EdDSA", "k2"))
    await world.keys.refresh()
    assert await world.refusal(good) == "unknown_key"


async def test_remembered_token_is_refused_when_keys_are_stale() -> None:
    world = World(max_lifetime_s=100_000)
    await world.keys.refresh()
    good = token(claims(exp=int(world.clock.now_s) + 9_000))
    await world.identity.authenticate(good)
    world.clock.now_s += 3_601
    assert await world.refusal(good) == "keys_stale"


async def test_no_keys_means_nobody() -> None:
    assert await World().refusal(token()) == "keys_unavailable"


def deny(path: Path, document: Any) -> None:
    """Replaces the file as an operator's tool does; the clock of the file system need not tick in between."""
    fresh = path.with_suffix(".new")
    fresh.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    fresh.rename(path)


@pytest.mark.parametrize(
    ("said", "document"),
    [
        (claims(), {"tokens": ["token-1"]}),
        (claims(), {"subjects": ["agent:analyst"]}),
        (claims(), {"clients": ["analyst-app"]}),
        (claims(act={"sub": "agent:b", "act": {"sub": "agent:c"}}), {"subjects": ["agent:c"]}),
    ],
)
async def test_revocation_holds_from_the_next_call_on(tmp_path: Path, said: dict[str, Any], document: Any) -> None:
    path = tmp_path / "denylist.json"
    deny(path, {})
    world = World(path)
    await world.keys.refresh()
    good = token(said)
    await world.identity.authenticate(good)
    deny(path, document)
    assert await world.refusal(good) == "revoked"
    deny(path, {"tokens": ["another"]})
    await world.identity.authenticate(good)


async def test_settings_alone_make_an_identity_that_knows_its_keys_and_whom_not_to_believe(tmp_path: Path) -> None:
    keys_file, denylist_file = tmp_path / "keys.json", tmp_path / "denylist.json"
    keys_file.write_bytes(key_set(public(EC_PRIVATE, "ES256")))
    deny(denylist_file, {"tokens": ["token-1"]})
    chosen = settings(jwks_file=keys_file, denylist_file=denylist_file)
    async with TokenIdentity(chosen, wall_clock=Clock()) as identity:
        assert (await identity.authenticate(token(claims(jti="token-2")))).token_id == "token-2"
        with pytest.raises(Unauthenticated, match="revoked"):
            await identity.authenticate(token())


async def test_file_changed_within_one_tick_of_its_clock_is_still_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "denylist.json"
    path.write_text('{"tokens":["token-2"]}')
    world = World(path)
    await world.keys.refresh()
    stopped = path.stat()
    monkeypatch.setattr("controlplane.identity.denylist.os", SimpleNamespace(stat=lambda _: stopped))
    await world.identity.authenticate(token())
    path.write_text('{"tokens":["token-1"]}')
    assert await world.refusal(token()) == "revoked"


@pytest.mark.parametrize(
    "document", ["", "{", "[]", '{"tokens": "token-1"}', '{"tokens": [1]}', '{"token": ["token-1"]}', None]
)
async def test_unknown_revocation_denies_everybody(tmp_path: Path, document: str | None) -> None:
    path = tmp_path / "denylist.json"
    deny(path, {})
    world = World(path)
    await world.keys.refresh()
    good = token()
    await world.identity.authenticate(good)
    if document is None:
        path.unlink()
    else:
        deny(path, document)
    assert [await world.refusal(good) for _ in range(2)] == ["revocation_unknown"] * 2
    deny(path, {})
    await world.identity.authenticate(good)


async def test_denylist_that_is_no_text_denies_everybody(tmp_path: Path) -> None:
    path = tmp_path / "denylist.json"
    path.write_bytes(b'{"tokens": ["\xff"]}')
    world = World(path)
    await world.keys.refresh()
    assert await world.refusal(token()) == "revocation_unknown"


async def test_settled_denylist_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "denylist.json"
    deny(path, {})
    world, readings = World(path), []
    world.identity._denylist._wall_clock = lambda: path.stat().st_ctime + 10
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (readings.append(self), real(self))[1])
    await world.keys.refresh()
    for _ in range(3):
        await world.identity.authenticate(token())
    assert readings == [path]


@pytest.mark.parametrize(
    "changes",
    [
        {"jwks_file": None},
        {"jwks_url": "https://issuer.example/keys"},
        {"jwks_file": None, "jwks_url": "http://issuer.example/keys"},
        {"jwks_file": None, "jwks_url": "http://127.0.0.1.evil.example/keys"},
        {"jwks_file": None, "jwks_url": "https://user:pw@issuer.example/keys"},
        {"jwks_file": None, "jwks_url": "file:///etc/passwd"},
        {"algorithms": {"HS256"}},
        {"algorithms": {"none"}},
        {"algorithms": set()},
        {"issuer": ""},
        {"audience": ""},
        {"refresh_s": 10, "max_stale_s": 5},
        {"unheard_of": 1},
    ],
)
def test_impossible_settings_refuse_to_start(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**changes)
