"""What a model server gives to somebody who is not the gateway: asked without a key, changing nothing.

vLLM's ``--api-key`` guards only ``/v1`` and its like. ``/invocations`` completes and ``/adapters`` loads files for
anybody who can connect (its security guide says so; measured on 0.32). A server that is shut answers each probe with
401 or 404, and none can act upon one: they are empty bodies, or GET on a path that wants POST.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

import aiohttp
from yarl import URL

TIMEOUT_S = 5.0
SHUT = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


class Severity(StrEnum):
    FINE = "fine"
    WARNING = "warning"
    DANGER = "danger"


@dataclass(frozen=True, slots=True)
class Finding:
    """``name`` is a stable word; ``advice`` says what to do, "" when there is nothing to do."""

    severity: Severity
    name: str
    what: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A request without a key. Any answer but a refusal means that the path is open."""

    name: str
    method: str
    path: str
    severity: Severity
    what: str
    advice: str


UNREACHABLE_FOR_OTHERS = "let nobody but the gateway connect: bind to loopback, or a NetworkPolicy as in the chart"
DEVELOPMENT = "start it without VLLM_SERVER_DEV_MODE"

PROBES = (
    Probe(
        "key_missing", "GET", "/v1/models", Severity.WARNING, "answers without a key", "set --api-key and api_key_file"
    ),
    Probe(
        "invocations_open", "POST", "/invocations", Severity.DANGER, "completes without a key", UNREACHABLE_FOR_OTHERS
    ),
    Probe(
        "adapters_open",
        "POST",
        "/adapters",
        Severity.DANGER,
        "loads adapters from any path without a key",
        "set lora.runtime to false; " + UNREACHABLE_FOR_OTHERS,
    ),
    Probe("tokenize_open", "POST", "/tokenize", Severity.WARNING, "tokenizes without a key", UNREACHABLE_FOR_OTHERS),
    Probe("sleep_open", "GET", "/sleep", Severity.DANGER, "anybody can put it to sleep", DEVELOPMENT),
    Probe("pause_open", "GET", "/pause", Severity.DANGER, "anybody can pause it", DEVELOPMENT),
    Probe("rpc_open", "GET", "/collective_rpc", Severity.DANGER, "anybody can call into its workers", DEVELOPMENT),
    Probe(
        "docs_open",
        "GET",
        "/openapi.json",
        Severity.WARNING,
        "describes its API to anybody",
        "start it with --disable-fastapi-docs",
    ),
)


async def exposure_of(base_url: str) -> list[Finding]:
    """Findings about one OpenAI-compatible server, the gravest first; one ``fine`` when there are none."""
    base = URL(base_url)
    findings = exposure_of_address(base.host or "", encrypted=base.scheme == "https")
    try:
        findings += [finding async for finding in _probed(base.origin())]
    except FAILURES as error:
        findings.append(Finding(Severity.WARNING, "unreachable", f"no answer: {error}", "is it running?"))
    return gravest_first(findings) or [Finding(Severity.FINE, "shut", "whoever has no key is refused")]


def gravest_first(findings: list[Finding]) -> list[Finding]:
    order = list(Severity)
    return sorted(findings, key=lambda one: -order.index(one.severity))


async def _probed(origin: URL) -> AsyncIterator[Finding]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        for probe in PROBES:
            body = b"{}" if probe.method == "POST" else None
            headers = {"content-type": "application/json"} if body else {}
            url = origin.with_path(probe.path)
            async with session.request(probe.method, url, data=body, headers=headers, allow_redirects=False) as answer:
                if answer.status not in SHUT:
                    said = f"{probe.method} {probe.path} answers {answer.status}: {probe.what}"
                    yield Finding(probe.severity, probe.name, said, probe.advice)


def exposure_of_address(host: str, *, encrypted: bool) -> list[Finding]:
    """Whether the address itself is one that strangers reach. Who can reach a name only the network knows."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    findings = []
    if address.is_global:
        said = f"{address} is reachable from anywhere"
        findings.append(Finding(Severity.DANGER, "public_address", said, "put it on a private network"))
    if not encrypted and not address.is_loopback:
        said = "key and prompts travel in the clear"
        findings.append(Finding(Severity.WARNING, "plain_text", said, "use TLS, or a network that encrypts"))
    return findings
