"""What makes a bundle unservable: each mistake is named with its file and line."""

from __future__ import annotations

import os

import pytest

from controlplane.policy.bundle import build, read_files, revision_of
from controlplane.policy.documents import BundleError
from controlplane.policy.model import read_model
from tests.unit.policy.bundles import Folder, ask

RULE = {"on": "/tool/refund", "do": "call", "effect": "allow", "when": "'true'"}


def problems(folder: Folder) -> list[str]:
    with pytest.raises(BundleError) as refused:
        read_model(build(read_files(folder.path)).model)
    return [str(problem) for problem in refused.value.problems]


def write_rule(folder: Folder, more: str = "", **fields: str) -> None:
    """A role whose rule has ``on``, ``do``, ``effect`` and ``when`` in lines 4 to 7 and ``more`` from line 8."""
    lines = "".join(f"    {key}: {value}\n" for key, value in {**RULE, **fields}.items())
    folder.write("roles/extra.yaml", f"role: extra\nrules:\n  - id: extra.one\n{lines}{more}")


@pytest.mark.parametrize(
    ("rule", "line", "word"),
    [
        ({"effect": "Deny"}, 6, "effect"),
        ({"do": "execute"}, 5, "execute"),
        ({"do": "[]"}, 5, "no action"),
        ({"on": "[]"}, 4, "no resource"),
        ({"on": "/tool/(a+)+"}, 4, "(a+)+"),
        ({"when": '"False) or (True"'}, 7, "condition"),
        ({"when": "r.sub.nope > 1"}, 7, "r.sub.nope"),
        ({"when": "r.ctx.args.amuont > 1"}, 7, "r.ctx.args.amuont"),
        ({"when": "r.ctx.args.amount > 'x'"}, 7, "never be compared"),
        ({"when": "r.obj.side_effect == 'irreversable'"}, 7, "irreversable"),
        ({"when": "r.sub.kind in ['agent', 'robot']"}, 7, "robot"),
        ({"when": "r.act in r.sub.kind"}, 7, "no list"),
        ({"when": "5 in r.obj.sensitivity"}, 7, "no list"),
        ({"more": "    oblige: [{fly: {high: 1}}]\n"}, 8, "unknown obligation 'fly'"),
        ({"more": "    oblige: [{require_approval: {by: boss}}]\n"}, 8, "approval by unknown role 'boss'"),
        ({"more": "    oblige: [{max_tokens: {max: 0}}]\n"}, 8, "greater than 0"),
        ({"more": "    oblige: [{max_tokens: {max: '5'}}]\n"}, 8, "valid integer"),
        ({"more": "    oblige: [{redact: {inn: [card]}}]\n"}, 8, "inn"),
        ({"effect": "deny", "more": "    oblige: [{max_tokens: {max: 5}}]\n"}, 8, "obliges nobody"),
        ({"effect": "oblige"}, 6, "obliges to nothing"),
        ({"more": "    unless: x\n"}, 8, "unless"),
    ],
)
def test_mistake_in_a_rule_is_named_with_its_line(folder: Folder, rule: dict[str, str], line: int, word: str) -> None:
    write_rule(folder, **rule)
    (problem,) = [one for one in problems(folder) if one.startswith("roles/extra.yaml:")]
    assert problem.startswith(f"roles/extra.yaml:{line}:")
    assert word in problem


def test_second_rule_of_the_same_id_is_refused_and_both_places_named(folder: Folder) -> None:
    write_rule(folder, more="  - {id: support.tiny, on: /x, do: call, effect: allow}\n")
    (problem,) = problems(folder)
    assert problem.startswith("roles/support.yaml:41:")
    assert "taken by roles/extra.yaml:8" in problem


def test_all_mistakes_are_told_at_once(folder: Folder) -> None:
    write_rule(folder, do="fly", when="r.sub.nope > 1", effect="allow")
    folder.edit("tenants/acme/principals.yaml", "roles: [support]", "roles: [suport]")
    folder.edit("catalog/models.yaml", "fallback: [cache, risk-baseline]", "fallback: [gone]")
    found = "\n".join(problems(folder))
    for word in ("fly", "r.sub.nope", "suport", "gone"):
        assert word in found


@pytest.mark.parametrize(
    "name", ["model.conf", "schema.yaml", "global/guardrails.yaml", "catalog/tools.yaml", "catalog/models.yaml"]
)
def test_bundle_without_a_required_file_is_refused(folder: Folder, name: str) -> None:
    folder.remove(name)
    assert f"{name}: missing" in problems(folder)


@pytest.mark.parametrize(
    "name", ["global/more.yml", "guardrails.yaml", "roles/deep/x.yaml", "tenants/acme.yaml", "x.csv"]
)
def test_misplaced_file_is_refused_lest_a_guard_is_lost(folder: Folder, name: str) -> None:
    folder.write(name, "guards: []\n")
    assert any(name in problem for problem in problems(folder))


def test_folder_that_nobody_would_look_into_is_refused(folder: Folder) -> None:
    folder.write("tenants/acme/deep/x.yaml", "tenant: acme\nrules: []\n")
    assert any("tenants/acme/deep" in problem for problem in problems(folder))


def test_file_whose_name_nobody_can_write_down_is_refused_and_does_not_end_who_follows_the_files(
    folder: Folder,
) -> None:
    policy = folder.policy()
    (folder.path / "roles" / os.fsdecode(b"\xff.yaml")).write_text("x")
    assert not policy.reload()
    assert "no file of a bundle has this name" in policy.status().error
    assert ask(policy, "user:operator", "read", "/api/calls").permits


def test_model_that_is_no_text_is_named(folder: Folder) -> None:
    (folder.path / "model.conf").write_bytes(b"\xff\xfe")
    assert problems(folder) == ["model.conf: not UTF-8"]


def test_guard_can_never_allow(folder: Folder) -> None:
    folder.edit(
        "global/guardrails.yaml",
        "    effect: deny\n    when: r.obj.sensitivity",
        "    effect: allow\n    when: r.obj.sensitivity",
    )
    assert any("effect" in problem for problem in problems(folder))


def test_tenant_file_speaks_for_its_own_folder_only(folder: Folder) -> None:
    folder.write("tenants/globex/more.yaml", "tenant: acme\nprincipals:\n  - {id: agent:mole, roles: [operator]}\n")
    assert any("another tenant's folder" in problem for problem in problems(folder))


@pytest.mark.parametrize("name", ["role:operator", "anyone"])
def test_no_principal_is_called_like_a_role(folder: Folder, name: str) -> None:
    folder.write("tenants/globex/more.yaml", f"tenant: globex\nprincipals:\n  - {{id: '{name}'}}\n")
    assert any("no principal's name" in problem for problem in problems(folder))


def test_directory_entry_cannot_replace_what_the_credential_says(folder: Folder) -> None:
    folder.edit(
        "tenants/acme/principals.yaml", "{clearance: 2, risk: 10, external: false}", "{tenant: globex, risk: high}"
    )
    found = "\n".join(problems(folder))
    assert "'tenant'" in found
    assert "'risk' is not of type number" in found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("!some(where (p.eft == deny))", "some(where (p.eft == allow))"),
        ("onResource(r.obj, p.obj)", "keyMatch2(r.obj.path, p.obj)"),
        ("when(p.id, p.cond, r.sub, r.obj, r.act, r.ctx)", "eval(p.cond)"),
        (" && g(r.sub.id, p.sub, r.dom)", ""),
        ("isAction(r.act, p.act)", "(isAction(r.act, p.act) || r.act == 'call')"),
        ("isAction(r.act, p.act)", "isAction(r.act, p.act) && r.sub.attributes == 'x'"),
        ("isAction(r.act, p.act)", "isAction(r.act, p.act) && r.act == 'a' or 'b' == 'b'"),
        ("isAction(r.act, p.act)", "isAction(r.act, p.act) && !inDomain(r.dom, p.dom)"),
        ("isAction(r.act, p.act)", "isAction(r.act, p.act) && p.eft != 'deny'"),
        ("isAction(r.act, p.act)", "isAction(r.act, p.act) && r.dom == p.dom"),
        ("isAction(r.act, p.act)", "isAction(r.act, p.act) && p.id != 'guard.quarantined'"),
        ("[matchers]\n", "[matchers]\nm2 = r.act == 'call'\n"),
        ("g = _, _, _", "g = _, _"),
        ("[matchers]", "[nothing]"),
    ],
)
def test_model_with_another_meaning_is_refused(folder: Folder, old: str, new: str) -> None:
    folder.edit("model.conf", old, new)
    assert any(problem.startswith("model.conf") for problem in problems(folder))


def test_roles_that_include_each_other_end(folder: Folder) -> None:
    folder.edit("roles/support.yaml", "role: support\n", "role: support\nincludes: [analyst]\n")
    folder.edit("roles/analyst.yaml", "role: analyst\n", "role: analyst\nincludes: [support]\n")
    bundle = build(read_files(folder.path))
    assert bundle.directory.roles_of("acme", "agent:support") == ("analyst", "support")


def test_revision_covers_every_name_and_byte(folder: Folder) -> None:
    files = read_files(folder.path)
    seen = {revision_of(files)}
    for name in files:
        seen.add(revision_of({**files, name: files[name] + b" "}))
        seen.add(
            revision_of(
                {**{other: content for other, content in files.items() if other != name}, name + "x": files[name]}
            )
        )
    assert len(seen) == 1 + 2 * len(files)
    assert revision_of({"a": b"bc"}) != revision_of({"ab": b"c"})
    assert revision_of(dict(reversed(files.items()))) == revision_of(files)


def test_bundle_is_found_through_links_as_kubernetes_mounts_it(folder: Folder) -> None:
    mounted = folder.path.parent / "mounted"
    (mounted / "..data").mkdir(parents=True)
    for entry in folder.path.iterdir():
        (mounted / entry.name).symlink_to(entry)
    assert revision_of(read_files(mounted)) == revision_of(read_files(folder.path))
