"""Settings of this room: the embedded server, the backend that calls a model server, and the deployment on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from inference.savedmodel.reader import versions

MESSAGE_BYTES = 64 * 1024 * 1024


class EmbeddedServerSettings(BaseModel, frozen=True, extra="forbid"):
    """The model server that comes with the product."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; the server has no authentication.")
    port: int = Field(default=8500, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    base: Path | None = Field(default=None, description="Folder whose sub-folders are models, each with versions.")
    models: Mapping[str, Path] = Field(default_factory=dict, description="Further models: name and folder.")
    runtime: Literal["numpy", "tensorflow"] = Field(
        default="numpy", description="What runs the models; tensorflow must be installed for this interpreter."
    )
    poll_s: float = Field(default=1.0, gt=0, description="How often to look for new versions, in seconds.")
    max_message_bytes: int = Field(default=MESSAGE_BYTES, gt=0, description="Largest request and answer, in bytes.")

    def all_models(self) -> dict[str, Path]:
        found = self.base.iterdir() if self.base is not None and self.base.is_dir() else ()
        return {folder.name: folder for folder in found if versions(folder)} | dict(self.models)


class TfServingSettings(BaseModel, frozen=True, extra="forbid"):
    """How to reach TensorFlow Serving (or the embedded server, which speaks the same wire)."""

    target: str = Field(default="127.0.0.1:8500", description="host:port of the model server's gRPC port.")
    targets: tuple[str, ...] = Field(
        default=(),
        description="host:port of every replica, in place of target; all of them are told to serve the same.",
    )
    tls: bool = Field(default=False, description="Whether to speak TLS to the model server.")
    ca_file: Path | None = Field(default=None, description="PEM file of trusted roots; none means the system's.")
    max_message_bytes: int = Field(default=MESSAGE_BYTES, gt=0, description="Largest request and answer, in bytes.")
    reconnect_s: float = Field(
        default=1.0, gt=0, description="Longest wait between attempts to reach a server that is down, in seconds."
    )

    def all_targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.targets)) or (self.target,)


class DeploymentSettings(BaseModel, frozen=True, extra="forbid"):
    """Which models the model server shall serve, and where that is remembered."""

    file: Path = Field(default=Path("var/deployment.json"), description="Where versions and labels are remembered.")
    models: Mapping[str, str] = Field(
        default_factory=dict, description="Model name and base path, as the model server sees the path."
    )
    default_label: str = Field(default="stable", description="The label of a call that asks for no version.")
    timeout_s: float = Field(default=30.0, gt=0, description="Longest wait for a version to be available, in seconds.")
    poll_s: float = Field(default=0.1, gt=0, description="How often to ask whether it is, in seconds.")
    answer_s: float = Field(default=5.0, gt=0, description="Longest wait for one answer about versions, in seconds.")
    appear_s: float = Field(
        default=2.0, ge=0, description="Longest wait for a server to find a version on its disk, in seconds."
    )
    drain_s: float = Field(
        default=10.0, ge=0, description="Longest wait for running calls before a version is unloaded, in seconds."
    )
