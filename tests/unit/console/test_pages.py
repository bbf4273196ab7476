"""The pages: signed in or sent away, every word escaped, every change by a form of ours."""

from __future__ import annotations

import re

import httpx2
import pytest

from controlplane.console import ConsoleSettings, build
from controlplane.console.ports import ConsolePorts
from tests.unit.console.world import BASE, Breaker, World

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"
PAGES = ["/console", "/console/panels", "/console/login", "/api/docs", "/console/static/console.css", "/nothing"]


async def signed_in(client: httpx2.AsyncClient, token: str = "operator-token") -> httpx2.Response:
    return await client.post("/console/login", data={"token": token}, headers={"origin": BASE})


def csrf_in(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


async def test_stranger_is_sent_to_sign_in(console: World) -> None:
    async with console.client() as client:
        for path in ("/console", "/console/calls/some"):
            sent = await client.get(path, headers={"accept": "text/html"})
            assert (sent.status_code, sent.headers["location"]) == (303, "/console/login")
        assert (await client.get("/console/panels")).status_code == 401
        assert (await client.get("/console/login")).status_code == 200


@pytest.mark.parametrize("address", ["/", "/console/"])
async def test_what_a_person_types_first_leads_to_the_console(console: World, address: str) -> None:
    async with console.client() as client:
        sent = await client.get(address)
    assert (sent.status_code, sent.headers["location"]) == (303, "/console")


async def test_sign_in_gives_a_cookie_that_is_not_the_token(console: World) -> None:
    async with console.client() as client:
        reply = await signed_in(client)
        assert (reply.status_code, reply.headers["location"]) == (303, "/console/signed-in")
        arrived = await client.get("/console/signed-in")
        assert (arrived.status_code, arrived.headers["location"]) == (303, "/console")
        cookie = reply.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "operator-token" not in cookie
        page = await client.get("/console")
        assert page.status_code == 200
        assert "user:operator" in page.text
        assert console.asked[-1] == ("operator-token", "read", "/api/console")


async def test_a_browser_that_keeps_no_cookie_is_told_why_it_is_not_signed_in(console: World) -> None:
    async with console.client() as client:
        await signed_in(client)
        client.cookies.clear()  # as a browser does with one that travels over https only, on a plain connection
        arrived = await client.get("/console/signed-in")
    assert arrived.status_code == 401
    assert "console.secure_cookie" in arrived.text


async def test_cookie_is_bound_to_https_unless_told_otherwise() -> None:
    async def authorize(*_: str) -> None: ...

    ports = ConsolePorts(**dict.fromkeys(ConsolePorts.__dataclass_fields__) | {"authorize": authorize})
    transport = httpx2.ASGITransport(build(ports, ConsoleSettings()))
    async with httpx2.AsyncClient(transport=transport, base_url="https://console.test") as client:
        reply = await client.post("/console/login", data={"token": "t"})
    assert reply.headers["set-cookie"].startswith("__Host-controlplane=")
    assert "Secure" in reply.headers["set-cookie"]


@pytest.mark.parametrize(("token", "status"), [("forged", 401), ("", 401), ("nobody-token", 403), ("t" * 70_000, 403)])
async def test_token_that_proves_nothing_opens_nothing(console: World, token: str, status: int) -> None:
    async with console.client() as client:
        reply = await signed_in(client, token)
        assert reply.status_code == status
        assert "set-cookie" not in reply.headers
        assert "Sign in" in reply.text


async def test_sign_in_from_another_site_is_refused(console: World) -> None:
    async with console.client() as client:
        for origin in ("https://evil.example", "null"):
            reply = await client.post("/console/login", data={"token": "operator-token"}, headers={"origin": origin})
            assert reply.status_code == 403
            assert "set-cookie" not in reply.headers


async def test_session_ends_with_its_token_its_time_or_signing_out(console: World) -> None:
    async with console.client() as client:
        await signed_in(client)
        console.revoked.add("operator-token")
        assert (await client.get("/console")).status_code == 401
        console.revoked.clear()
        page = await client.get("/console")
        assert page.status_code == 200
        cookie = dict(client.cookies)
        out = await client.post("/console/logout", data={"csrf": csrf_in(page.text)}, headers={"origin": BASE})
        assert out.status_code == 303
    async with console.client() as client:
        client.cookies.update(cookie)
        assert (await client.get("/console")).status_code == 303
        await signed_in(client)
        console.now_s += 28_800
        assert (await client.get("/console")).status_code == 303


async def test_sessions_are_bounded(console: World) -> None:
    sessions = console.app.state.guard.sessions
    sessions._settings = ConsoleSettings(max_sessions=2, secure_cookie=False)
    async with console.client() as first, console.client() as second, console.client() as third:
        for client in (first, second, third):
            await signed_in(client)
        assert [(await client.get("/console")).status_code for client in (first, second, third)] == [303, 200, 200]


async def test_page_shows_calls_models_breakers_policy_and_ledger(console: World) -> None:
    await console.call(denied=True, name="/tool/refund")
    await console.call()
    console.breakers.known["risk/1"] = Breaker("risk/1", "open", "error_rate")
    async with console.client() as client:
        await signed_in(client)
        page = (await client.get("/console")).text
    for shown in (
        "/tool/refund",
        "support.refund.large",
        "roles/support.yaml:20",
        "agent:analyst",
        "by agent:b",
        "12.3 ms",
        "risk/1",
        "error rate",
        "stable → 1",
        console.policy.revision,
        console.ledger.head.root.hex(),
    ):
        assert shown in page


async def test_call_page_tells_the_whole_story(console: World) -> None:
    call_id, denied = await console.call(), await console.call(denied=True)
    async with console.client() as client:
        await signed_in(client)
        page = (await client.get(f"/console/calls/{call_id}")).text
        for shown in (call_id, "roles/support.yaml:20", "max_tokens", "risk/1", "Tokens out", "agent:b"):
            assert shown in page
        assert "was not made" in (await client.get(f"/console/calls/{denied}")).text
        missing = await client.get("/console/calls/nothing")
        assert (missing.status_code, "unknown_call" in missing.text) == (404, True)


async def test_words_of_strangers_are_only_words(console: World) -> None:
    call_id = await console.call(subject=HOSTILE, name=f"/tool/{HOSTILE}", operation=HOSTILE, label=HOSTILE)
    console.breakers.known[HOSTILE] = Breaker(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,))
    console.policy.error = HOSTILE
    async with console.client() as client:
        await signed_in(client)
        for path in ("/console", "/console/panels", f"/console/calls/{call_id}"):
            page = (await client.get(path)).text
            assert "<script>alert" not in page
            assert "&lt;script&gt;" in page
            assert "{{7*7}}" in page
        refused = await client.post("/console/login", data={"token": HOSTILE}, headers={"origin": BASE})
        assert "<script>alert" not in refused.text


async def test_a_name_that_turns_a_line_around_is_seen_to_do_so(console: World) -> None:
    call = await console.call(
        denied=True, subject="agent:\u202ea", name="/tool/\u202egpj.exe\x1b ÆØ", operation="\u2066x"
    )
    async with console.client() as client:
        await signed_in(client)
        for path in ("/console", "/console/panels", f"/console/calls/{call}"):
            page = (await client.get(path)).text
            assert "/tool/\\u202egpj.exe\\u001b ÆØ" in page
            assert not {"\u202e", "\u2066", "\x1b"} & set(page)


async def test_form_holds_and_releases_a_breaker(console: World) -> None:
    console.breakers.known["risk/1"] = Breaker("risk/1")
    async with console.client() as client:
        await signed_in(client)
        said = {"csrf": csrf_in((await client.get("/console")).text), "reason": "looks wrong"}
        done = await client.post("/console/breakers/risk/1/hold", data=said, headers={"origin": BASE})
        assert (done.status_code, done.headers["location"]) == (303, "/console")
        assert console.breakers.known["risk/1"].holds == ("operator",)
        assert console.changes()[0]["change"]["reason"] == "looks wrong"
        await client.post("/console/breakers/risk/1/release", data=said, headers={"origin": BASE})
        assert console.breakers.known["risk/1"].holds == ()


@pytest.mark.parametrize(
    ("said", "origin", "path", "status"),
    [
        ({"reason": "looks wrong"}, BASE, "risk/1/hold", 403),
        ({"reason": "looks wrong", "csrf": "guess"}, BASE, "risk/1/hold", 403),
        ({"reason": "looks wrong", "csrf": "é"}, BASE, "risk/1/hold", 403),
        ({"reason": "looks wrong", "csrf": None}, "https://evil.example", "risk/1/hold", 403),
        ({"reason": " ", "csrf": None}, BASE, "risk/1/hold", 403),
        ({"reason": "looks wrong", "csrf": None}, BASE, "invented/9/hold", 404),
    ],
)
async def test_form_that_is_not_ours_changes_nothing(
    console: World, said: dict[str, str | None], origin: str, path: str, status: int
) -> None:
    console.breakers.known["risk/1"] = Breaker("risk/1")
    async with console.client() as client:
        await signed_in(client)
        csrf = csrf_in((await client.get("/console")).text)
        form = {name: csrf if value is None else value for name, value in said.items()}
        refused = await client.post(f"/console/breakers/{path}", data=form, headers={"origin": origin})
    assert refused.status_code == status
    assert console.breakers.known.keys() == {"risk/1"}
    assert console.breakers.known["risk/1"].holds == ()
    assert console.changes() == []


async def test_form_asks_for_the_right_to_change_and_for_a_record(console: World) -> None:
    console.breakers.known["risk/1"] = Breaker("risk/1")
    async with console.client() as client:
        refused = await client.post("/console/breakers/risk/1/hold", data={"reason": "looks wrong"})
        assert refused.status_code == 401
        await signed_in(client, "reader-token")
        said = {"csrf": csrf_in((await client.get("/console")).text), "reason": "looks wrong"}
        refused = await client.post("/console/breakers/risk/1/hold", data=said, headers={"origin": BASE})
        assert refused.status_code == 403
        await signed_in(client)
        said = {"csrf": csrf_in((await client.get("/console")).text), "reason": "looks wrong"}
        console.is_ledger_down = True
        unrecorded = await client.post("/console/breakers/risk/1/hold", data=said, headers={"origin": BASE})
        assert unrecorded.status_code == 503
    assert console.breakers.known["risk/1"].holds == ()


async def test_api_by_cookie_needs_the_sessions_own_word_for_changes(console: World) -> None:
    async with console.client() as client:
        await signed_in(client)
        assert (await client.get("/api/calls")).status_code == 200
        body = {"reason": "looks wrong"}
        assert (await client.post("/api/breakers/risk/1/hold", json=body)).status_code == 403
        csrf = csrf_in((await client.get("/console")).text)
        foreign = {"x-csrf-token": csrf, "origin": "https://evil.example"}
        assert (await client.post("/api/breakers/risk/1/hold", json=body, headers=foreign)).status_code == 403
        assert console.breakers.known == {}
        ours = {"x-csrf-token": csrf, "origin": BASE}
        assert (await client.post("/api/breakers/risk/1/hold", json=body, headers=ours)).status_code == 200


async def test_panels_are_sent_again_only_when_they_changed(console: World) -> None:
    async with console.client() as client:
        await signed_in(client)
        first = await client.get("/console/panels")
        etag = {"if-none-match": first.headers["etag"]}
        assert (await client.get("/console/panels", headers=etag)).status_code == 304
        await console.call()
        assert (await client.get("/console/panels", headers=etag)).status_code == 200


async def test_page_stands_without_its_ledger(console: World) -> None:
    await console.call()
    path = console.ledger._reader._path
    async with console.client() as client:
        await signed_in(client)
        for part in path.parent.glob(path.name + "*"):
            part.rename(part.with_name("gone-" + part.name))
        page = await client.get("/console")
        for part in path.parent.glob("gone-*"):
            part.rename(part.with_name(part.name.removeprefix("gone-")))
    assert page.status_code == 200
    assert "The ledger cannot be read" in page.text


@pytest.mark.parametrize("path", PAGES)
async def test_every_answer_forbids_foreign_and_inline_code(console: World, path: str) -> None:
    async with console.client() as client:
        await signed_in(client)
        reply = await client.get(path)
    assert reply.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-frame-options"] == "DENY"
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=|javascript:", reply.text)


async def test_pages_live_below_a_proxys_prefix(console: World) -> None:
    transport = httpx2.ASGITransport(console.app, root_path="/acp")
    async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
        reply = await client.post("/acp/console/login", data={"token": "operator-token"}, headers={"origin": BASE})
        assert reply.headers["location"] == "/acp/console/signed-in"
        page = (await client.get("/acp/console")).text
    links = re.findall(r'(?:href|src|action|data-source)="(/[^"]*)"', page)
    assert links
    assert all(link.startswith("/acp/") for link in links)


async def test_api_is_described_for_people_and_for_machines(console: World) -> None:
    async with console.client() as client:
        page = (await client.get("/api/docs")).text
        described = (await client.get("/api/openapi.json")).json()
    for path in described["paths"]:
        assert path in page
    assert "LabelMove" in page


async def test_only_our_own_files_are_served(console: World) -> None:
    async with console.client() as client:
        for name in ("console.css", "console.js", "favicon.svg"):
            assert (await client.get(f"/console/static/{name}")).status_code == 200
        for name in ("%2e%2e%2fapi.py", "api.py", "other.css"):
            assert (await client.get(f"/console/static/{name}")).status_code == 404
