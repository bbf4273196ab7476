"""A folder of policy files → one immutable bundle, or everything that is wrong with it.

Fails closed: a file that is missing, misplaced or misspelt refuses the whole bundle, so that a guardrail can not get
lost by its file's name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from controlplane.calls import Obligation, RuleRef
from controlplane.policy import behaviour, documents, sources
from controlplane.policy.adaptation import AdaptationFile
from controlplane.policy.behaviour import NO_BEHAVIOUR, Behaviour, BehaviourFile
from controlplane.policy.catalogue import CACHE, Catalogue, ModelCatalogue, ModelEntry, ToolCatalogue, ToolEntry
from controlplane.policy.conditions import Condition
from controlplane.policy.documents import BundleError, Document, Problem
from controlplane.policy.grammar import GrammarError
from controlplane.policy.obligations import parse_obligation
from controlplane.policy.resources import Pattern, PatternError
from controlplane.policy.rules import ACTIONS, ANYONE, ANYWHERE, Directory, Rule, role_name
from controlplane.policy.schema import Schema

REQUIRED = ("model.conf", "schema.yaml", "global/guardrails.yaml", "catalog/tools.yaml", "catalog/models.yaml")
MAX_FILES = 5000
MAX_ROLE_DEPTH = 10

_PLACES = re.compile(
    r"model\.conf|schema\.yaml|adaptation\.yaml|behaviour\.yaml|catalog/(tools|models)\.yaml|global/[^/]+\.yaml|roles/[^/]+\.yaml"
    r"|tenants/[^/]+/[^/]+\.yaml|tests/[^/]+_test\.yaml"
)

Shape = TypeVar("Shape", bound=BaseModel)
NO_ADAPTATION = AdaptationFile(rules=[])


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything a decision needs. ``revision`` is the hex SHA-256 over the paths and bytes of all files."""

    revision: str
    model: str
    schema: Schema
    catalogue: Catalogue
    directory: Directory
    rules: Mapping[str, Rule]
    adaptation: AdaptationFile = NO_ADAPTATION
    behaviour: Behaviour = NO_BEHAVIOUR


def read_files(folder: Path) -> dict[str, bytes]:
    """All files of a bundle, by relative path. Follows links, as Kubernetes mounts a folder through them.

    Raises: BundleError when the folder cannot be read whole.
    """
    found: dict[str, bytes] = {}
    try:
        if not folder.is_dir():
            raise BundleError([Problem(str(folder), "no such folder")])
        for path in _walk(folder, 0):
            if len(found) == MAX_FILES:
                raise BundleError([Problem(str(folder), f"more than {MAX_FILES} files")])
            found[_name_of(path.relative_to(folder))] = path.read_bytes()
    except OSError as error:
        raise BundleError([Problem(str(error.filename or folder), f"cannot be read: {error.strerror}")]) from None
    return found


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name.startswith(".") or entry.name.endswith((".md", "~")):
                continue
            if not entry.is_dir():
                yield folder / entry.name
            elif depth < 2:  # noqa: PLR2004  tenants/<t>/<file> is the deepest place
                yield from _walk(folder / entry.name, depth + 1)
            else:
                raise BundleError([Problem(str(folder / entry.name), "no folder of a bundle is that deep")])


def _name_of(path: Path) -> str:
    name = path.as_posix()
    if not name.isprintable():
        raise BundleError([Problem(ascii(name), "no file of a bundle has this name")])
    return name


def revision_of(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name]):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def build(files: Mapping[str, bytes]) -> Bundle:
    """Raises: BundleError with every problem found, not only the first."""
    return _Builder(files).bundle()


@dataclass(slots=True)
class _Builder:
    files: Mapping[str, bytes]
    problems: list[Problem] = field(default_factory=list)
    rules: dict[str, Rule] = field(default_factory=dict)
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)  # role -> roles it includes
    approvers: list[tuple[str, str]] = field(default_factory=list)  # where a role is named that approves
    schema: Schema = field(default_factory=Schema)
    catalogue: Catalogue = field(default_factory=Catalogue)

    def bundle(self) -> Bundle:
        self._places()
        self._declarations()
        tenants = list(self._shaped("tenants/", sources.TenantFile))
        self._roles()
        self._guards()
        for document, tenant in tenants:
            self._tenant_rules(document, tenant)
        self._approvers()
        directory, adaptation, watched = self._directory(tenants), self._adaptation(), self._behaviour()
        model = self._model()
        if self.problems:
            raise BundleError(sorted(self.problems, key=lambda one: one.source))
        parts = self.schema, self.catalogue, directory, self.rules, adaptation, watched
        return Bundle(revision_of(self.files), model, *parts)

    def _problem(self, source: str, message: str) -> None:
        self.problems.append(Problem(source, message))

    def _places(self) -> None:
        for name in REQUIRED:
            if name not in self.files:
                self._problem(name, "missing")
        for name in self.files:
            if not _PLACES.fullmatch(name):
                self._problem(name, "no file of a bundle has this name")

    def _model(self) -> str:
        try:
            return self.files.get("model.conf", b"").decode()
        except UnicodeDecodeError:
            self._problem("model.conf", "not UTF-8")
            return ""

    def _declarations(self) -> None:
        arguments: dict[str, Any] = {}
        for _, schema in self._shaped("schema.yaml", sources.SchemaFile):
            self.schema = Schema.of(schema)
            for kind, declared in schema.arguments.items():
                arguments[kind] = {(name,): one for name, one in declared.items()}
        tools: dict[str, ToolEntry] = {}
        models: dict[str, ModelEntry] = {}
        for document, tool_file in self._shaped("catalog/tools.yaml", ToolCatalogue):
            for index, tool in enumerate(tool_file.tools):
                self._once(tools, tool.resource, document.source(("tools", index)))
                tools[tool.resource] = tool
        for document, model_file in self._shaped("catalog/models.yaml", ModelCatalogue):
            for index, model in enumerate(model_file.models):
                self._once(models, model.name, document.source(("models", index)))
                models[model.name] = model
            for index, model in enumerate(model_file.models):
                for unknown in set(model.fallback) - set(models) - {CACHE}:
                    self._problem(document.source(("models", index)), f"fallback {unknown!r} is no model here")
        self.catalogue = Catalogue(tools, models, arguments)

    def _adaptation(self) -> AdaptationFile:
        for document, file in self._shaped("adaptation.yaml", AdaptationFile):
            seen: dict[str, str] = {}
            for index, rule in enumerate(file.rules):
                self._once(seen, rule.id, document.source(("rules", index)))
                seen[rule.id] = rule.id
            return file
        return NO_ADAPTATION

    def _behaviour(self) -> Behaviour:
        for document, file in self._shaped(behaviour.NAME, BehaviourFile):
            found, problems = behaviour.read(document, file, self.catalogue)
            self.problems += problems
            return found
        return NO_BEHAVIOUR

    def _once(self, seen: Mapping[str, object], name: str, source: str) -> None:
        if name in seen:
            self._problem(source, f"{name!r} is there already")

    def _roles(self) -> None:
        for document, file in self._shaped("roles/", sources.RoleFile):
            if document.name != f"roles/{file.role}.yaml":
                self._problem(document.source(("role",)), f"role {file.role!r} belongs into roles/{file.role}.yaml")
            self.roles[file.role] = tuple(file.includes)
            for index, shape in enumerate(file.rules):
                self._rule(document, ("rules", index), shape, (role_name(file.role),), ANYWHERE)
        for role, included in self.roles.items():
            for unknown in set(included) - set(self.roles):
                self._problem(f"roles/{role}.yaml:1", f"includes unknown role {unknown!r}")

    def _approvers(self) -> None:
        """What only people of an unknown role may approve, nobody can."""
        for source, role in self.approvers:
            if role not in self.roles:
                self._problem(source, f"approval by unknown role {role!r}")

    def _guards(self) -> None:
        for document, file in self._shaped("global/", sources.GuardFile):
            for index, shape in enumerate(file.guards):
                self._rule(document, ("guards", index), shape, (ANYONE,), ANYWHERE)

    def _tenant_rules(self, document: Document, file: sources.TenantFile) -> None:
        if document.name.split("/")[1] != file.tenant:
            self._problem(document.source(("tenant",)), f"a file of tenant {file.tenant!r} in another tenant's folder")
        for index, shape in enumerate(file.rules):
            path = ("rules", index)
            self._known_roles(document, path, shape.roles)
            for principal in shape.principals:
                self._plain_name(document, path, principal)
            subjects = (*map(role_name, shape.roles), *shape.principals)
            if not subjects:
                self._problem(document.source(path), "a tenant's rule names roles or principals")
            self._rule(document, path, shape, subjects, file.tenant)

    def _plain_name(self, document: Document, path: documents.Path, principal: str) -> None:
        if principal.startswith("role:") or principal in (ANYONE, ANYWHERE):
            self._problem(document.source(path), f"{principal!r} is no principal's name")

    def _known_roles(self, document: Document, path: documents.Path, roles: list[str]) -> None:
        for unknown in set(roles) - set(self.roles):
            self._problem(document.source(path), f"unknown role {unknown!r}")

    def _directory(self, tenants: list[tuple[Document, sources.TenantFile]]) -> Directory:
        holds: dict[tuple[str, str], frozenset[str]] = {}
        attributes: dict[tuple[str, str], Mapping[str, Any]] = {}
        for document, file in tenants:
            for index, principal in enumerate(file.principals):
                path: documents.Path = ("principals", index)
                key = (file.tenant, principal.id)
                if key in holds:
                    self._problem(document.source(path), f"{principal.id!r} is there already")
                self._plain_name(document, path, principal.id)
                self._known_roles(document, path, principal.roles)
                for name, value in principal.attributes.items():
                    for fault in self.schema.faults_of_value(name, value):
                        self._problem(document.source((*path, "attributes", name)), fault)
                held = self._closure(document, path, principal.roles)
                holds[key] = frozenset({principal.id, ANYONE, *map(role_name, held)})
                attributes[key] = principal.attributes
        return Directory(holds, attributes, frozenset(file.tenant for _, file in tenants))

    def _closure(self, document: Document, path: documents.Path, roles: list[str]) -> set[str]:
        held, front = set(roles), list(roles)
        for _ in range(MAX_ROLE_DEPTH):
            front = [inner for role in front for inner in self.roles.get(role, ()) if inner not in held]
            held.update(front)
        if front:
            self._problem(document.source(path), f"roles include each other deeper than {MAX_ROLE_DEPTH}")
        return held

    def _rule(
        self,
        document: Document,
        path: documents.Path,
        shape: sources.RuleShape,
        subjects: tuple[str, ...],
        domain: str,
    ) -> None:
        source = document.source((*path, "id"))
        if shape.id in self.rules:
            self._problem(source, f"rule id {shape.id!r} is taken by {self.rules[shape.id].ref.source}")
            return
        before = len(self.problems)
        patterns = self._patterns(document, path, _listed(shape.on))
        actions = self._actions(document, path, _listed(shape.do))
        condition = self._condition(document, path, shape.when, patterns)
        obligations = self._obligations(document, path, shape)
        if len(self.problems) == before and condition is not None:
            self.rules[shape.id] = Rule(
                RuleRef(shape.id, source), subjects, domain, patterns, actions, condition, shape.effect, obligations
            )

    def _patterns(self, document: Document, path: documents.Path, texts: list[str]) -> tuple[Pattern, ...]:
        found = []
        for text in texts:
            try:
                found.append(Pattern.parse(text))
            except PatternError as error:
                self._problem(document.source((*path, "on")), str(error))
        if not texts:
            self._problem(document.source((*path, "on")), "names no resource")
        return tuple(dict.fromkeys(found))

    def _actions(self, document: Document, path: documents.Path, words: list[str]) -> tuple[str, ...]:
        for unknown in set(words) - {*ACTIONS, "*"}:
            self._problem(document.source((*path, "do")), f"{unknown!r} is none of {', '.join(ACTIONS)} or '*'")
        if not words:
            self._problem(document.source((*path, "do")), "names no action")
        return ("*",) if "*" in words else tuple(dict.fromkeys(words))

    def _condition(
        self, document: Document, path: documents.Path, text: str, patterns: tuple[Pattern, ...]
    ) -> Condition | None:
        source = document.source((*path, "when"))
        try:
            condition = Condition.compile(text, self.schema.types)
        except GrammarError as error:
            self._problem(source, f"condition: {error}")
            return None
        for fault in dict.fromkeys(self.schema.faults_of_condition(condition, patterns, self.catalogue)):
            self._problem(source, f"condition: {fault}")
        return condition

    def _obligations(
        self, document: Document, path: documents.Path, shape: sources.RuleShape
    ) -> tuple[Obligation, ...]:
        if shape.oblige and shape.effect == "deny":
            self._problem(document.source((*path, "oblige")), "a deny obliges nobody")
        if not shape.oblige and shape.effect == "oblige":
            self._problem(document.source((*path, "effect")), "obliges to nothing")
        found = []
        for index, entry in enumerate(shape.oblige):
            for name, parameters in entry.items():
                try:
                    duty = parse_obligation(name, parameters)
                    found.append(duty)
                    source = document.source((*path, "oblige", index))
                    self.approvers += [(source, each["by"]) for each in duty.parameters.get("approvers", ())]
                except KeyError:
                    self._problem(document.source((*path, "oblige", index)), f"unknown obligation {name!r}")
                except ValidationError as error:
                    self._invalid(document, error, (*path, "oblige", index, name))
        return tuple(found)

    def _shaped(self, prefix: str, shape: type[Shape]) -> Iterator[tuple[Document, Shape]]:
        """The files under ``prefix`` in the given shape; those that are not in it become problems."""
        for name in sorted(self.files):
            if not name.startswith(prefix) or not _PLACES.fullmatch(name):
                continue
            try:
                document = documents.read_document(name, self.files[name])
            except BundleError as error:
                self.problems.extend(error.problems)
                continue
            try:
                yield document, shape.model_validate(document.value)
            except ValidationError as error:
                self._invalid(document, error, ())

    def _invalid(self, document: Document, error: ValidationError, below: documents.Path) -> None:
        for one in error.errors(include_url=False, include_input=False, include_context=False):
            path = (*below, *one["loc"])
            where = ".".join(map(str, one["loc"]))
            self._problem(document.source(path), f"{where}: {one['msg']}" if where else one["msg"])


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
