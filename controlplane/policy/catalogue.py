"""The catalogue: what there is to call, and what policy needs to know about it.

What is not listed is treated as the most dangerous of its kind, so that a guardrail bites before the entry is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from controlplane.policy.conditions import ArgumentTypes
from controlplane.policy.resources import segments_of
from inference.catalogue import ModelCard

CACHE = "cache"  # a rung of the fallback ladder that is no model: the answer given before

SideEffect = Literal["read", "write", "irreversible"]
CostTier = Literal["free", "low", "medium", "high"]

_STRICTEST: Mapping[str, Any] = MappingProxyType(
    {"listed": False, "labels": (), "sensitivity": 5, "side_effect": "irreversible", "cost_tier": "high", "owner": ""}
)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    description: str = ""
    labels: list[str] = Field(default_factory=list, description="Free words that rules may name.")
    sensitivity: int = Field(ge=0, le=5, description="0 is public, 5 is the most sensitive.")
    side_effect: SideEffect
    cost_tier: CostTier
    owner: str = Field(description="The tenant that owns it; `platform` is everybody's.")

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "listed": True,
            "labels": tuple(self.labels),
            "sensitivity": self.sensitivity,
            "side_effect": self.side_effect,
            "cost_tier": self.cost_tier,
            "owner": self.owner,
        }


class ToolEntry(_Entry):
    """An HTTP tool (`/tool/{name}`), an MCP server (`/mcp/{server}`, for all its tools), or one of its tools."""

    resource: str = Field(pattern=r"^/(tool/[^/]+|mcp/[^/]+(/[^/]+)?)$")
    arguments: dict[str, Any] = Field(default_factory=dict, description="JSON Schema of the tool's arguments.")

    @property
    def name(self) -> str:
        return self.resource.split("/", 2)[2]


class Price(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    input_per_million_usd: float = Field(default=0.0, ge=0, description="US dollars for a million input tokens.")
    output_per_million_usd: float = Field(default=0.0, ge=0, description="US dollars for a million output tokens.")
    per_call_usd: float = Field(default=0.0, ge=0, description="US dollars for a call, whatever its size.")
    cached_input_per_million_usd: float | None = Field(
        default=None,
        ge=0,
        description="US dollars for a million input tokens that the server had cached; none: as input.",
    )
    per_second_usd: float = Field(
        default=0.0, ge=0, description="US dollars for a second from sending a call to its answer, as for a rented GPU."
    )


class Energy(BaseModel):
    """An estimate of what a call takes, in joules: by token, or by second where there are no tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    joules_per_input_token: float = Field(default=0.0, ge=0)
    joules_per_output_token: float = Field(default=0.0, ge=0)
    watts: float = Field(default=0.0, ge=0, description="Power while a call is answered; its share, where it shares.")
    source: str = Field(min_length=10, description="Where the factors come from: a measurement or a publication.")


class ModelEntry(_Entry):
    """A model that agents may ask for by name, the backend that serves it, and what answers in its place."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.~@+=:-]+$")
    task: str
    backend: str
    fallback: list[str] = Field(
        default_factory=list,
        description="What answers in its place, the first to try first: `cache` or a model's name.",
    )
    price: Price = Price()
    energy: Energy | None = Field(
        default=None, description="Factors of the energy estimate; none: nothing is estimated."
    )
    card: ModelCard = Field(default_factory=ModelCard, description="What is known of it, stated and measured.")

    @property
    def resource(self) -> str:
        return f"/model/{self.name}"


class ToolCatalogue(BaseModel):
    """The file `catalog/tools.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    tools: list[ToolEntry]


class ModelCatalogue(BaseModel):
    """The file `catalog/models.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    models: list[ModelEntry]


@dataclass(frozen=True, slots=True)
class Resource:
    """What a rule may know about the object of a call; made once for every catalogued path."""

    path: str
    segments: tuple[str, ...]
    attributes: Mapping[str, Any]
    argument_types: ArgumentTypes


@dataclass(frozen=True, slots=True)
class Catalogue:
    """``tools`` by resource path, ``models`` by name. ``arguments`` gives the argument types that a whole kind of
    resource shares (`model`, `mcp`, …); a tool's own JSON Schema adds to them.
    """

    tools: Mapping[str, ToolEntry] = field(default_factory=dict)
    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    arguments: Mapping[str, ArgumentTypes] = field(default_factory=dict)

    def tool(self, resource: str) -> ToolEntry | None:
        """The entry of a tool; an MCP tool without its own has its server's."""
        found = self.tools.get(resource)
        if found is None and resource.startswith("/mcp/"):
            found = self.tools.get("/".join(resource.split("/")[:3]))
        return found

    def model(self, name: str) -> ModelEntry | None:
        return self.models.get(name)

    def entry(self, path: str) -> ToolEntry | ModelEntry | None:
        return self.models.get(path[7:]) if path.startswith("/model/") else self.tool(path)

    def resource(self, path: str) -> Resource:
        """``path`` is valid (see ``resources.is_valid_path``)."""
        segments, entry = segments_of(path), self.entry(path)
        attributes = dict(_STRICTEST) if entry is None else entry.attributes
        attributes.update(path=path, kind=segments[0], name="/".join(segments[1:]))
        types = self.arguments.get(segments[0], {})
        if isinstance(entry, ModelEntry):
            attributes |= entry.card.attributes | {"task": entry.task}
        elif entry is not None and entry.resource == path:
            types = {**types, **argument_types(entry.arguments)}
        return Resource(path, segments, attributes, types)

    def supposing(self, path: str, **changes: Any) -> Catalogue:
        """The catalogue as if the entry of ``path`` said something else; KeyError when there is no entry."""
        entry = self.entry(path)
        if isinstance(entry, ModelEntry):
            return replace(self, models={**self.models, entry.name: entry.model_copy(update=changes)})
        if entry is None:
            raise KeyError(path)
        return replace(self, tools={**self.tools, entry.resource: entry.model_copy(update=changes)})

    @property
    def resources(self) -> tuple[str, ...]:
        return (*self.tools, *(model.resource for model in self.models.values()))


def argument_types(schema: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """The declared types of a JSON Schema's properties, nested ones by path; `any` where it says no single type."""
    found: dict[tuple[str, ...], str] = {}
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return found
    for name, inner in properties.items():
        declared = inner.get("type") if isinstance(inner, Mapping) else None
        path = (*prefix, name)
        found[path] = declared if isinstance(declared, str) else "any"
        if declared == "object":
            found.update(argument_types(inner, path))
    return found
