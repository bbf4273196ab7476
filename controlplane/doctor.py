"""`controlplane doctor`: is this installation sound, and can anybody get past the gateway to a model server?"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from controlplane.policy.bundle import build, read_files
from controlplane.policy.documents import BundleError
from controlplane.settings import OpenAiBackend, Settings, SettingsError, load
from controlplane.settings_file import GATEWAY_CONFIG
from controlplane.tools.registry import RegistryError, load_registry
from inference.exposure import Finding, Severity, exposure_of, exposure_of_address, gravest_first

MARKS = {Severity.FINE: "ok     ", Severity.WARNING: "warning", Severity.DANGER: "DANGER "}
COLOURS = {Severity.FINE: "green", Severity.WARNING: "yellow", Severity.DANGER: "red"}


@click.command()
@GATEWAY_CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(config: Path, as_json: bool) -> None:
    """Look for what is unsound: settings, policy, keys, and ways around the gateway.

    Asks every model server, without a key and without changing anything, whether it answers somebody who is not the
    gateway. Exit code 1 when anything is a danger.
    """
    findings = examine(config)
    for part, finding in findings:
        if as_json:
            click.echo(json.dumps({"part": part, **asdict(finding)}))
            continue
        click.echo(f"{click.style(MARKS[finding.severity], fg=COLOURS[finding.severity])} {part}: {finding.what}")
        if finding.advice:
            click.echo(f"        → {finding.advice}")
    if any(finding.severity is Severity.DANGER for _, finding in findings):
        raise SystemExit(1)


def examine(config: Path) -> list[tuple[str, Finding]]:
    """Findings with the part they are about; what cannot be examined is a finding too."""
    try:
        settings = load(config)
    except SettingsError as error:
        unusable = [Finding(Severity.DANGER, "unusable", each, "see docs/SETTINGS.md") for each in error.problems]
        return [("settings", finding) for finding in unusable]
    parts = {
        "settings": [Finding(Severity.FINE, "usable", str(config))],
        "files": list(_files(settings)),
        "policy": list(_policy(settings)),
        "ledger": list(_keys(settings)),
        **asyncio.run(_backends(settings)),
    }
    return [(part, finding) for part, findings in parts.items() for finding in gravest_first(findings)]


def _files(settings: Settings) -> Iterator[Finding]:
    """Those that settings name and that are read later: at the start, or with the first call that needs them."""
    named = {"identity.jwks_file": settings.identity.jwks_file}
    named |= {
        f"backends.{name}.api_key_file": each.api_key_file
        for name, each in settings.backends.items()
        if isinstance(each, OpenAiBackend)
    }
    for setting, file in named.items():
        if file is not None and not os.access(file, os.R_OK):
            said = f"{setting}: {file} cannot be read"
            yield Finding(Severity.DANGER, "unreadable", said, "calls that need it are refused")
    if settings.registry is not None:
        try:
            load_registry(settings.registry)
        except RegistryError as error:
            for problem in error.problems:
                yield Finding(Severity.DANGER, "broken_registry", problem, "the gateway does not start with it")


def _policy(settings: Settings) -> Iterator[Finding]:
    path = settings.policy.path
    try:
        bundle = build(read_files(path))
    except BundleError as error:
        for problem in error.problems:
            yield Finding(Severity.DANGER, "broken_policy", str(problem), "controlplane policy lint says the same")
        return
    yield Finding(Severity.FINE, "policy", f"{len(bundle.rules)} rules, revision {bundle.revision[:12]}")
    for name, entry in sorted(bundle.catalogue.models.items()):
        if entry.backend not in settings.backends:
            said = f"nobody serves {name}: the settings have no backend {entry.backend}"
            yield Finding(Severity.WARNING, "no_backend", said, "add it under backends, or remove the entry")


def _keys(settings: Settings) -> Iterator[Finding]:
    for file in (settings.audit.signing_key, settings.audit.commitment_key):
        mode = file.stat().st_mode if file.exists() else 0
        if mode & (stat.S_IWGRP | stat.S_IRWXO):
            said = f"others may read {file}, or its group may write it"
            yield Finding(Severity.DANGER, "key_exposed", said, f"chmod 600 {file}, and think of it as known")
        elif mode & stat.S_IRGRP:
            said = f"its group may read {file}"
            yield Finding(
                Severity.WARNING, "key_of_group", said, "right for a Secret mounted by Kubernetes; else chmod 600"
            )
    folder = next(each for each in settings.audit.path.absolute().parents if each.exists())
    if os.access(folder, os.W_OK):
        yield Finding(Severity.FINE, "ledger", str(settings.audit.path))
    else:
        said = f"{folder} cannot be written"
        yield Finding(Severity.DANGER, "ledger_not_writable", said, "without a ledger every call is refused")


async def _backends(settings: Settings) -> dict[str, list[Finding]]:
    examined = await asyncio.gather(*(_backend(each) for each in settings.backends.values()))
    return {f"backend {name}": findings for name, findings in zip(settings.backends, examined, strict=True)}


async def _backend(backend: object) -> list[Finding]:
    if isinstance(backend, OpenAiBackend):
        return await exposure_of(str(backend.base_url))
    target, tls = str(getattr(backend, "target", "")), bool(getattr(backend, "tls", False))
    found = exposure_of_address(target.rpartition(":")[0].strip("[]"), encrypted=tls)
    said = f"{target}: TF Serving asks nobody who they are"
    advice = "the network must keep others away: see networkPolicy in the chart"
    return [*found, Finding(Severity.FINE, "no_authentication", said, advice)]
