"""Everything an operator may set, composed from one class per room. Read once at start: one YAML file plus environment.

Environment variables beat the file: ``CONTROLPLANE_SERVER__HTTP_PORT=9000`` sets ``server.http_port``. Unknown keys,
repeated keys and impossible combinations refuse to start, all of them listed at once. Secrets are named by file, never
inlined. The file is YAML in the same plain dialect as policy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, HttpUrl, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as EnvironmentError_

from audit import AuditSettings
from controlplane.adaptation.settings import AdaptationSettings
from controlplane.admission.settings import AdmissionSettings
from controlplane.approvals import ApprovalSettings
from controlplane.behaviour.settings import BehaviourSettings
from controlplane.console.settings import ConsoleSettings
from controlplane.cost.settings import CostSettings
from controlplane.drift.guard_settings import GuardSettings
from controlplane.identity.settings import IdentitySettings
from controlplane.limits.settings import LimitSettings
from controlplane.playbook_settings import PlaybookSettings
from controlplane.policy.documents import BundleError, Document, read_document
from controlplane.policy.settings import PolicySettings
from controlplane.resilience.settings import BreakerSettings, FallbackSettings, SharingSettings
from controlplane.response_cache.settings import ResponseCacheSettings
from controlplane.settings_file import Place, problems_of
from controlplane.shadow import ShadowSettings
from controlplane.shared_state import RedisSettings
from controlplane.telemetry.settings import TelemetrySettings
from inference.openai_http.settings import VllmSettings
from inference.routing import RoutingSettings
from inference.selection.settings import SelectionSettings
from inference.tfserving.settings import TfServingSettings

PREFIX, NESTED = "CONTROLPLANE_", "__"


class SettingsError(Exception):
    """The settings cannot be used; ``problems`` lists everything that is wrong with them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ServerSettings(BaseModel, frozen=True, extra="forbid"):
    host: str = Field("127.0.0.1", description="Address that the HTTP and gRPC doors listen on.")
    http_port: int = Field(8080, ge=0, le=65535, description="TCP port of the HTTP doors, console and API.")
    grpc_port: int = Field(
        8500, ge=0, le=65535, description="TCP port of the TF Serving gRPC door; 0 takes a free one."
    )
    public_url: str = Field("http://127.0.0.1:8080", description="URL under which callers reach the HTTP doors.")
    allowed_hosts: tuple[str, ...] = Field(
        ("127.0.0.1", "localhost", "[::1]"),
        description="Host names (and browser origins' hosts) that the MCP door answers to; others are refused.",
    )
    body_limit_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="Largest request body, bytes.")
    drain_s: float = Field(10.0, ge=0, description="Seconds that running calls get to finish at shutdown.")


class TimeoutSettings(BaseModel, frozen=True, extra="forbid"):
    model_s: float = Field(60.0, gt=0, description="Longest time for one model call, seconds.")
    tool_s: float = Field(30.0, gt=0, description="Longest time for one HTTP tool call, seconds.")
    mcp_s: float = Field(300.0, gt=0, description="Longest time for one MCP exchange, seconds.")


class TfServingModels(TfServingSettings, frozen=True, extra="forbid"):
    kind: Literal["tfserving"] = Field(description="A TensorFlow Serving server, or the embedded one.")
    models: dict[str, str] = Field(
        default_factory=dict, description="Models it serves: name and base path, as the model server sees the path."
    )
    routing: RoutingSettings = RoutingSettings()


class OpenAiBackend(VllmSettings, frozen=True, extra="forbid"):
    kind: Literal["openai"] = Field(description="vLLM, or any server with the OpenAI HTTP API.")
    slow_first_token_s: float = Field(
        5.0, gt=0, description="Seconds to the first token from which a chat counts as slow for its breaker."
    )
    replicas: tuple[HttpUrl, ...] = Field(
        (), description="Further servers of the same model, each like base_url; calls are spread over all of them."
    )
    routing: RoutingSettings = RoutingSettings()

    def watched(self) -> RoutingSettings:
        """Others than vLLM publish no metrics that we read, and may charge for a probe."""
        if self.dialect == "vllm":
            return self.routing
        watch = self.routing.watch.model_copy(update={"metrics": False, "probe": "none"})
        return self.routing.model_copy(update={"watch": watch})


class ObservationSettings(BaseModel, frozen=True, extra="forbid"):
    capacity: int = Field(20_000, ge=100, description="Predictions and labels kept for the monitor (count).")
    capacity_bytes: int = Field(
        64 * 1024 * 1024, ge=1024 * 1024, description="Bytes of requests and replies kept for it, all together."
    )
    signals_per_s: int = Field(
        50,
        ge=0,
        le=1_000,
        description="Answers of language models that are made into signals in a second (count); 0: none. Those to come "
        "are chosen by chance, evenly.",
    )
    signal_bytes: int = Field(
        16 * 1024,
        ge=1024,
        le=65_536,
        description="Bytes of an answer's text that signals are made of; the rest is not.",
    )


AnyBackend = Annotated[TfServingModels | OpenAiBackend, Field(discriminator="kind")]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter=NESTED,
        nested_model_default_partial_update=True,
    )
    document: ClassVar[Mapping[str, Any]] = {}  # what the file says

    state: Path = Field(Path("var"), description="Folder for what the gateway keeps besides the ledger.")
    server: ServerSettings = ServerSettings()
    identity: IdentitySettings
    policy: PolicySettings = PolicySettings()
    audit: AuditSettings = AuditSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    breaker: BreakerSettings = BreakerSettings()
    breaker_sharing: SharingSettings = SharingSettings()
    fallback: FallbackSettings = FallbackSettings()
    response_cache: ResponseCacheSettings = ResponseCacheSettings()
    cost: CostSettings = CostSettings()
    redis: RedisSettings | None = Field(None, description="What several gateways share; none: each is for itself.")
    shadow: ShadowSettings = ShadowSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    limits: LimitSettings = LimitSettings()
    console: ConsoleSettings = ConsoleSettings()
    observations: ObservationSettings = ObservationSettings()
    guard: GuardSettings = GuardSettings()
    selection: SelectionSettings = SelectionSettings()
    admission: AdmissionSettings = AdmissionSettings()
    adaptation: AdaptationSettings = AdaptationSettings()
    behaviour: BehaviourSettings = BehaviourSettings()
    approvals: ApprovalSettings = ApprovalSettings()
    healing: PlaybookSettings = PlaybookSettings()
    registry: Path | None = Field(None, description="YAML file of tools and MCP servers; none: there are none.")
    backends: dict[str, AnyBackend] = Field(
        default_factory=dict, description="Model servers by the name that the policy catalogue uses."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        ports = {"server.http_port": self.server.http_port, "server.grpc_port": self.server.grpc_port}
        ports["telemetry.metrics_port"] = self.telemetry.metrics_port
        taken = [name for name, port in ports.items() if port and list(ports.values()).count(port) > 1]
        if taken:
            raise ValueError(f"{' and '.join(taken)} must differ")
        shared = [self.response_cache.shared, self.cost.shared, self.breaker_sharing.shared]
        if self.redis is None and any(shared):
            raise ValueError("response_cache.shared, cost.shared and breaker_sharing.shared need redis")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  no dotenv files
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  secrets are named by path
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, dict(cls.document))


def load(path: Path) -> Settings:
    """The settings in ``path`` under the environment's overrides.

    Raises:
        SettingsError: with everything that is wrong.
    """

    read = _read(path)

    class FromFile(Settings):
        document = read.value or {}

    problems = list(_unknown_variables(os.environ))
    try:
        settings = FromFile()
    except EnvironmentError_ as error:
        problems.append(f"environment: {error}")
    except ValidationError as error:
        problems += problems_of(error, read, _variables(os.environ))
    if problems:
        raise SettingsError(problems)
    return settings


def _read(path: Path) -> Document:
    try:
        document = read_document(str(path), path.read_bytes())
    except OSError as error:
        raise SettingsError([f"{path}: {error.strerror}"]) from error
    except BundleError as error:
        raise SettingsError([str(problem) for problem in error.problems]) from error
    if document.value is not None and not isinstance(document.value, dict):
        raise SettingsError([f"{path}: settings are a mapping of names to values"])
    return document


def _variables(environment: Mapping[str, str]) -> Mapping[Place, str]:
    """Variables by what they set: ``CONTROLPLANE_SERVER__HTTP_PORT`` sets ``("server", "http_port")``."""
    ours = (name for name in environment if name.startswith(PREFIX))
    return {tuple(name.removeprefix(PREFIX).lower().split(NESTED)): name for name in ours}


def _unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Nested names only: a Kubernetes service called ``controlplane`` sets ``CONTROLPLANE_PORT`` and others."""
    for name in sorted(environment):
        section = name.removeprefix(PREFIX).partition(NESTED)[0].lower()
        if name.startswith(PREFIX) and NESTED in name and section not in Settings.model_fields:
            yield f"environment: {name}: there is no section {section}"
