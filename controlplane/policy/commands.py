"""`policy lint`, `policy test` and `policy explain`: the policy author's tools."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from controlplane.calls import Decision
from controlplane.policy.bundle import read_files
from controlplane.policy.cases import RequestShape, read_cases
from controlplane.policy.documents import BundleError
from controlplane.policy.explain import Finding, findings, nearest_misses
from controlplane.policy.lint import lint as lint_bundle
from controlplane.policy.policy import BundlePolicy
from controlplane.policy.report import Report, run_cases
from controlplane.policy.settings import PolicySettings

_folder = click.option(
    "--path",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("policies"),
    show_default=True,
    help="Folder of the policy bundle.",
)


@click.group()
def policy() -> None:
    """Lint, test and explain policies."""


@policy.command()
@_folder
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
def lint(path: Path, strict: bool) -> None:
    """Say everything that is wrong with a bundle, with file and line."""
    found = lint_bundle(path)
    for problem in found.errors:
        click.echo(f"error: {problem}")
    for problem in found.warnings:
        click.echo(f"warning: {problem}")
    if found.errors or (strict and found.warnings):
        raise SystemExit(1)
    click.echo(f"{path}: no errors, {len(found.warnings)} warnings")


@policy.command()
@_folder
@click.option(
    "--min-coverage", type=click.FloatRange(0, 100), default=0.0, help="Percent of rules that cases must meet."
)
def test(path: Path, min_coverage: float) -> None:
    """Run the cases in tests/*_test.yaml and say which rules no case meets."""
    loaded = _loaded(path)
    try:
        report = run_cases(loaded, read_cases(read_files(path)))
    except BundleError as error:
        raise click.ClickException("\n".join(map(str, error.problems))) from None
    _print_report(report)
    if report.failed or report.coverage_ratio * 100 < min_coverage:
        raise SystemExit(1)


@policy.command()
@_folder
@click.option("--request", "request_text", help="The request as JSON (or @file): {principal, call, now}, as in a case.")
@click.option("--subject", default="", help="Who calls, e.g. agent:support.")
@click.option("--tenant", default="", help="The subject's tenant.")
@click.option("--chain", multiple=True, help="Who acts for the subject; the current actor first.")
@click.option("--claims", default="{}", help="Verified claims, as JSON.")
@click.option("--action", default="", help="infer, call, list, read, connect or write.")
@click.option("--resource", default="", help="E.g. /tool/refund.")
@click.option("--arguments", default="{}", help="The call's arguments, as JSON.")
@click.option("--all", "show_all", is_flag=True, help="Show every rule, not only matches and nearest misses.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def explain(path: Path, request_text: str | None, show_all: bool, as_json: bool, **options: Any) -> None:
    """Decide one request and say why: rules that match, and what the nearest miss lacked."""
    loaded, request = _loaded(path), _request(request_text, options)
    principal, call = request.principal.principal(), request.call.call()
    decision = loaded.decide(principal, call, request.now)
    found = [] if loaded.bundle is None else findings(loaded.bundle, principal, call, request.now)
    matches, misses = [one for one in found if one.matches], nearest_misses(found)
    unanswered = [one for one in found if one.failed and one.rule.ref in decision.rules]
    if as_json:
        shown = found if show_all else unanswered + matches + [one for one in misses if one not in unanswered]
        click.echo(json.dumps({**_decision(decision), "findings": [_finding(one) for one in shown]}, indent=2))
        return
    click.echo(f"{decision.effect.value}: {decision.reason}  (policy {decision.revision[:12]}, {decision.eval_us} us)")
    for duty in decision.obligations:
        click.echo(f"  oblige {duty.name} {json.dumps(dict(duty.parameters))}")
    _print_findings("cannot be answered", unanswered)
    _print_findings("matches", matches)
    if not decision.permits:
        _print_findings("nearest miss", [one for one in misses if one not in unanswered])
    if show_all:
        _print_findings("no match", [one for one in found if not one.matches and one not in misses + unanswered])


def _loaded(path: Path) -> BundlePolicy:
    logging.getLogger("controlplane.policy").addHandler(
        logging.NullHandler()
    )  # what it says of a gateway is not so here
    loaded = BundlePolicy(PolicySettings(path=path))
    loaded.load()
    error = loaded.status().error
    if error:
        problems = map(str, lint_bundle(path).errors)
        raise click.ClickException("\n".join(["the bundle does not load:", *(list(problems) or [error])]))
    return loaded


def _request(text: str | None, options: dict[str, Any]) -> RequestShape:
    try:
        if text is not None:
            return RequestShape.model_validate_json(Path(text[1:]).read_text() if text.startswith("@") else text)
        return RequestShape.model_validate(
            {
                "principal": {
                    "subject": options["subject"],
                    "tenant": options["tenant"],
                    "chain": list(options["chain"]),
                    "claims": _json_of("claims", options["claims"]),
                },
                "call": {
                    "action": options["action"],
                    "resource": options["resource"],
                    "arguments": _json_of("arguments", options["arguments"]),
                },
            }
        )
    except ValidationError as error:
        faults = (": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in error.errors())
        raise click.BadParameter("; ".join(faults)) from None
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error)) from None


def _json_of(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"--{option} is not JSON: {error}") from None


def _print_report(report: Report) -> None:
    for result in report.failed:
        click.echo(f"FAILED {result.source}: {result.name}")
        for fault in result.faults:
            click.echo(f"    {fault}")
    for rule in report.uncovered:
        click.echo(f"not covered: {rule}")
    passed = len(report.results) - len(report.failed)
    met = report.rules - len(report.uncovered)
    click.echo(f"{passed} of {len(report.results)} cases passed; {met} of {report.rules} rules covered")


def _print_findings(title: str, found: list[Finding]) -> None:
    for one in found:
        click.echo(f"{title}: {one.rule.effect} {one.rule.ref.id}  {one.rule.ref.source}  for {one.principal}")
        for failed in one.failed:
            click.echo(f"    failed: {failed}")


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "rule": one.rule.ref.id,
        "source": one.rule.ref.source,
        "effect": one.rule.effect,
        "principal": one.principal,
        "matches": one.matches,
        "failed": list(one.failed),
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "effect": decision.effect.value,
        "reason": decision.reason,
        "revision": decision.revision,
        "rules": [{"id": rule.id, "source": rule.source} for rule in decision.rules],
        "obligations": [{duty.name: dict(duty.parameters)} for duty in decision.obligations],
    }
