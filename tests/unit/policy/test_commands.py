"""The policy author's tools, as they are typed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from controlplane.policy.commands import policy
from tests.unit.policy.bundles import SHIPPED, Folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(policy, list(arguments))


def test_shipped_policies_have_no_errors_and_no_warnings() -> None:
    result = run("lint", "--strict", "--path", str(SHIPPED))
    assert result.exit_code == 0, result.output


def test_shipped_cases_pass_and_meet_every_rule() -> None:
    result = run("test", "--min-coverage", "100", "--path", str(SHIPPED))
    assert result.exit_code == 0, result.output


def test_lint_tells_every_error_with_file_and_line(folder: Folder) -> None:
    folder.edit("roles/support.yaml", "effect: deny", "effect: Deny")
    folder.edit("roles/analyst.yaml", "r.ctx.args.rows", "r.ctx.args.row")
    folder.write("tests/odd_test.yaml", "tests:\n  - {name: odd, expect: {effect: allow}}\n")
    result = run("lint", "--path", str(folder.path))
    assert result.exit_code == 1
    for place in ("roles/support.yaml:28:", "roles/analyst.yaml:9:", "tests/odd_test.yaml:2:"):
        assert f"error: {place}" in result.output
    assert "error: tests/odd_test.yaml:2: tests.0.principal: Field required" in result.output


def test_lint_names_the_file_that_cannot_be_read(folder: Folder) -> None:
    (folder.path / "roles" / "gone.yaml").symlink_to(folder.path / "nowhere")
    result = run("lint", "--path", str(folder.path))
    assert (result.exit_code, "roles/gone.yaml: cannot be read" in result.output) == (1, True), result.output


@pytest.mark.parametrize(
    ("rule", "warning"),
    [
        ("{id: acme.dead, roles: [analyst], on: /model/tiny, do: infer, effect: allow, when: 'false'}", "never holds"),
        ("{id: acme.lost, roles: [analyst], on: /tool/gone, do: call, effect: allow}", "catalogue does not have"),
        (
            "{id: acme.again, roles: [analyst], on: /model/tiny, do: read, effect: allow}",
            "adds nothing to analyst.models",
        ),
        ("{id: acme.shut, roles: [analyst], on: /model/**, do: '*', effect: deny}", "analyst.tiny is unreachable"),
    ],
)
def test_lint_warns_of_rules_that_cannot_matter(folder: Folder, rule: str, warning: str) -> None:
    rules = f"tenant: acme\nprincipals:\n  - {{id: agent:two, roles: [analyst]}}\nrules:\n  - {rule}\n"
    folder.write("tenants/acme/more.yaml", rules)
    result = run("lint", "--path", str(folder.path))
    if "unreachable" in warning:  # a tenant's deny does not cover a role's rule in other tenants
        assert warning not in result.output
        folder.edit(
            "roles/analyst.yaml", "rules:\n", "rules:\n  - {id: analyst.shut, on: /model/**, do: '*', effect: deny}\n"
        )
        result = run("lint", "--path", str(folder.path))
    assert (result.exit_code, warning in result.output) == (0, True), result.output
    assert run("lint", "--strict", "--path", str(folder.path)).exit_code == 1


def test_role_that_nobody_holds_is_a_warning(folder: Folder) -> None:
    folder.write("roles/idle.yaml", "role: idle\nrules:\n  - {id: idle.one, on: /api/x, do: read, effect: allow}\n")
    assert "idle.one reaches nobody" in run("lint", "--path", str(folder.path)).output


def test_failing_case_is_told_with_what_it_got(folder: Folder) -> None:
    folder.edit("roles/support.yaml", "max: 5", "max: 6")
    result = run("test", "--path", str(folder.path))
    assert result.exit_code == 1
    assert "FAILED tests/support_test.yaml:2" in result.output
    assert "'max': 6" in result.output


def test_uncovered_rule_fails_only_when_coverage_is_asked(folder: Folder) -> None:
    folder.write("tests/analyst_test.yaml", "tests: []\n")
    result = run("test", "--path", str(folder.path))
    assert (result.exit_code, "not covered: analyst.risk" in result.output) == (0, True)
    assert run("test", "--min-coverage", "100", "--path", str(folder.path)).exit_code == 1


def test_bundle_that_does_not_load_fails_its_tests(folder: Folder) -> None:
    folder.remove("schema.yaml")
    assert run("test", "--path", str(folder.path)).exit_code == 1


def test_explain_names_rule_place_and_failed_conjunct() -> None:
    result = run(
        "explain", "--path", str(SHIPPED), "--subject", "agent:support", "--tenant", "acme",
        "--action", "call", "--resource", "/tool/refund", "--arguments", '{"amount": 5000}',
    )  # fmt: skip
    assert "deny: rule_denied" in result.output
    assert "matches: deny support.refund.huge  roles/support.yaml:24" in result.output
    assert "nearest miss: allow support.refund.small" in result.output
    assert "failed: r.ctx.args.amount <= 100" in result.output
    assert "failed: r.ctx.args.amount > 0" not in result.output


def test_explain_takes_and_gives_json() -> None:
    request = {
        "principal": {"subject": "agent:analyst", "tenant": "acme"},
        "call": {"action": "infer", "resource": "/model/tiny"},
    }
    result = run("explain", "--path", str(SHIPPED), "--json", "--all", "--request", json.dumps(request))
    answer = json.loads(result.output)
    assert (answer["effect"], answer["obligations"]) == ("allow", [{"max_tokens": {"max": 256}}])
    matched = [one["rule"] for one in answer["findings"] if one["matches"]]
    assert matched == ["analyst.tiny"] == [rule["id"] for rule in answer["rules"]]


@pytest.mark.parametrize("request_text", ["{", "{}", '{"principal": 1}', "@/nowhere"])
def test_explain_refuses_a_request_that_is_none(request_text: str) -> None:
    assert run("explain", "--path", str(SHIPPED), "--request", request_text).exit_code == 2


def test_explain_names_the_rule_that_could_not_be_answered() -> None:
    asked = ["--subject", "agent:support", "--tenant", "acme", "--action", "call", "--resource", "/tool/refund"]
    told = run("explain", "--path", str(SHIPPED), *asked, "--arguments", '{"amount": "5000"}').output
    assert "deny: condition_error" in told
    assert "cannot be answered: allow support.refund.small  roles/support.yaml:5  for agent:support" in told
    document = json.loads(
        run("explain", "--path", str(SHIPPED), *asked, "--arguments", '{"amount": "x"}', "--json").output
    )
    assert document["findings"][0]["rule"] == document["rules"][0]["id"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--claims", "["], "--claims is not JSON"),
        (["--arguments", "7"], "call.arguments: Input should be a valid dictionary"),
        (["--request", "{}"], "principal: Field required; call: Field required"),
        (["--request", "{"], "Invalid JSON"),
    ],
)
def test_a_request_that_is_none_is_told_in_a_line(options: list[str], said: str) -> None:
    told = run("explain", "--path", str(SHIPPED), *options)
    assert (told.exit_code, said in told.output, "pydantic" in told.output) == (2, True, False), told.output


@pytest.mark.parametrize("command", ["test", "explain"])
def test_a_bundle_that_does_not_load_is_told_a_line_for_each_fault(folder: Folder, command: str) -> None:
    folder.edit("roles/support.yaml", "effect: deny", "effect: Deny")
    folder.edit("roles/analyst.yaml", "r.ctx.args.rows", "r.ctx.args.row")
    told = run(command, "--path", str(folder.path))
    assert told.exit_code == 1
    first, *faults = told.output.splitlines()
    assert first == "Error: the bundle does not load:"
    assert [line.partition(": ")[0] for line in faults[:2]] == ["roles/analyst.yaml:9", "roles/support.yaml:28"]
