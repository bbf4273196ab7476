"""The shapes of the files that people write. Unknown keys are errors everywhere."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AttributeType = Literal["string", "boolean", "number", "integer", "strings"]
ArgumentType = Literal["string", "boolean", "number", "integer", "array", "object", "any"]

ID_PATTERN = r"^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+$"
NAME_PATTERN = r"^[a-z][a-z0-9_-]*$"
PRINCIPAL_PATTERN = r"^[A-Za-z][A-Za-z0-9_.:@/-]*$"


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AttributeDeclaration(_Shape):
    type: AttributeType
    enum: list[str] | None = None
    description: str = ""


class SchemaFile(_Shape):
    """`schema.yaml`: every attribute that a condition may read, and the arguments by kind of resource."""

    subject: dict[str, AttributeDeclaration]
    object: dict[str, AttributeDeclaration]
    context: dict[str, AttributeDeclaration]
    arguments: dict[str, dict[str, ArgumentType]]


class RuleShape(_Shape):
    id: str = Field(pattern=ID_PATTERN)
    on: str | list[str]
    do: str | list[str]
    effect: Literal["allow", "deny", "oblige"]
    when: str = "true"
    oblige: list[dict[str, dict[str, Any]]] = Field(default_factory=list)
    description: str = ""


class RoleFile(_Shape):
    """`roles/<role>.yaml`: what whoever holds the role may do, in whichever tenant it is given."""

    role: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    includes: list[str] = Field(default_factory=list, description="Roles whose rules hold here too.")
    rules: list[RuleShape]


class PrincipalShape(_Shape):
    id: str = Field(pattern=PRINCIPAL_PATTERN)
    roles: list[str] = Field(default_factory=list)
    attributes: dict[str, Any] = Field(default_factory=dict)


class TenantRuleShape(RuleShape):
    roles: list[str] = Field(default_factory=list)
    principals: list[str] = Field(default_factory=list)


class TenantFile(_Shape):
    """`tenants/<tenant>/*.yaml`: who is there, with which roles and attributes, and the tenant's own rules."""

    tenant: str = Field(pattern=NAME_PATTERN)
    principals: list[PrincipalShape] = Field(default_factory=list)
    rules: list[TenantRuleShape] = Field(default_factory=list)


class GuardShape(RuleShape):
    effect: Literal["deny", "oblige"]


class GuardFile(_Shape):
    """`global/*.yaml`: what holds for everybody everywhere. Guards only take away or oblige; they never allow."""

    guards: list[GuardShape]
