"""Everything an operator may set, composed from one class per room. Read once at start: one YAML file plus environment.

Environment variables beat the file: ``CONTROLPLANE_SERVER__HTTP_PORT=9000`` sets ``server.http_port``. Unknown keys and
impossible combinations refuse to start, all of them listed at once. Secrets are named by file, never inlined.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from audit import AuditSettings
from controlplane.console.settings import ConsoleSettings
from controlplane.identity.settings import IdentitySettings
from controlplane.limits.settings import LimitSettings
from controlplane.policy.settings import PolicySettings
from controlplane.resilience.settings import BreakerSettings, FallbackSettings
from controlplane.telemetry.settings import TelemetrySettings
from inference.openai_http.settings import VllmSettings
from inference.tfserving.settings import TfServingSettings


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


class OpenAiBackend(VllmSettings, frozen=True, extra="forbid"):
    kind: Literal["openai"] = Field(description="vLLM, or any server with the OpenAI HTTP API.")
    slow_first_token_s: float = Field(
        5.0, gt=0, description="Seconds to the first token from which a chat counts as slow for its breaker."
    )


class ObservationSettings(BaseModel, frozen=True, extra="forbid"):
    capacity: int = Field(20_000, ge=100, description="Predictions and labels kept for the monitor (count).")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="CONTROLPLANE_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )
    file: ClassVar[Path | None] = None

    state: Path = Field(Path("var"), description="Folder for what the gateway keeps besides the ledger.")
    server: ServerSettings = ServerSettings()
    identity: IdentitySettings
    policy: PolicySettings = PolicySettings()
    audit: AuditSettings = AuditSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    breaker: BreakerSettings = BreakerSettings()
    fallback: FallbackSettings = FallbackSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    limits: LimitSettings = LimitSettings()
    console: ConsoleSettings = ConsoleSettings()
    observations: ObservationSettings = ObservationSettings()
    registry: Path | None = Field(None, description="YAML file of tools and MCP servers; none: there are none.")
    backends: dict[str, TfServingModels | OpenAiBackend] = Field(
        default_factory=dict, description="Model servers by the name that the policy catalogue uses."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.server.http_port and self.server.http_port == self.server.grpc_port:
            raise ValueError("server.http_port and server.grpc_port must differ")
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
        from_file = YamlConfigSettingsSource(settings_cls, yaml_file=cls.file)
        return init_settings, env_settings, from_file


def load(path: Path) -> Settings:
    """The settings in ``path`` under the environment's overrides.

    Raises:
        SettingsError: with everything that is wrong.
    """

    class FromFile(Settings):
        file = path

    try:
        path.open("rb").close()
        return FromFile()
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError([f"{path}: {error}"]) from error
    except ValidationError as error:
        raise SettingsError([f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]) from error
