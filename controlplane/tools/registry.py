"""Which tools and MCP servers exist behind the gateway: one YAML file, read strictly.

What is not listed does not exist: it is refused and never called. Unknown keys, duplicate keys, duplicate names and
unreadable credentials are errors, and all of them are reported at once.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
MIB = 1024 * 1024
HEADER_TOKEN = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")


OURS = frozenset({"models"})
"""Names of MCP servers that the gateway is itself."""


class RegistryError(Exception):
    """The registry file cannot be used; ``problems`` lists everything that is wrong with it."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _plain_http(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https address")
    if parts.username or parts.password or parts.fragment:
        raise ValueError("must carry neither credentials nor a fragment")
    return url


def _header_name(name: str) -> str:
    if not HEADER_TOKEN.match(name):
        raise ValueError("must be an HTTP field name")
    return name.lower()


HttpUrl = Annotated[str, AfterValidator(_plain_http)]
HeaderName = Annotated[str, AfterValidator(_header_name)]


class _Entry(BaseModel, frozen=True, extra="forbid"):
    name: str = Field(pattern=NAME, description="Name in our paths and in policy; never the server's own claim.")


class Credential(BaseModel, frozen=True, extra="forbid"):
    """Our own secret for an upstream. Read from its file at every call, so that rotation needs no restart."""

    file: Path = Field(description="File that holds the secret and nothing else; surrounding white space is dropped.")
    header: HeaderName = Field("authorization", description="Request header that carries it.")
    prefix: str = Field("Bearer ", description="What stands before the secret in the header.")

    def as_header(self) -> tuple[str, str]:
        """Raises ``OSError`` when the file cannot be read and ``ValueError`` when it holds no usable secret."""
        secret = self.file.read_text("utf-8").strip()
        if not secret or not secret.isprintable():
            raise ValueError(f"{self.file} holds no usable secret")
        return self.header, self.prefix + secret


class HttpTool(_Entry, frozen=True, extra="forbid"):
    url: HttpUrl = Field(description="Where the tool is called.")
    method: Literal["POST", "PUT", "PATCH"] = Field("POST", description="HTTP method of the call.")
    timeout_s: float = Field(30.0, gt=0, le=600, description="Seconds until the tool must have answered in full.")
    reply_limit_bytes: int = Field(4 * MIB, gt=0, description="Largest reply that is passed on, in bytes.")
    credential: Credential | None = Field(None, description="Our secret for this tool; the caller's never leaves.")


class McpServer(_Entry, frozen=True, extra="forbid"):
    url: HttpUrl = Field(description="The server's streamable HTTP endpoint.")
    credential: Credential | None = Field(None, description="Our secret for this server.")


class StdioServer(_Entry, frozen=True, extra="forbid"):
    command: str = Field(min_length=1, description="Program that speaks MCP over stdin and stdout.")
    args: tuple[str, ...] = Field((), description="Its arguments.")
    env: tuple[str, ...] = Field((), description="Names of our environment variables it may see, besides PATH.")
    cwd: Path | None = Field(None, description="Its working directory.")


class Registry(BaseModel, frozen=True, extra="forbid"):
    """Everything the gateway may call besides models."""

    http_tools: tuple[HttpTool, ...] = Field((), description="Plain HTTP tools, at /tools/{name}.")
    mcp_servers: tuple[McpServer, ...] = Field((), description="MCP servers over streamable HTTP, at /mcp/{name}.")
    stdio_servers: tuple[StdioServer, ...] = Field((), description="MCP servers we start ourselves, at /mcp/{name}.")

    def problems(self) -> list[str]:
        """What no single entry can see: names used twice, and secrets that cannot be read."""
        with_secrets: list[HttpTool | McpServer] = [*self.http_tools, *self.mcp_servers]
        mcp_names = [entry.name for entry in (*self.mcp_servers, *self.stdio_servers)]
        return [
            *_twice("http_tools", [tool.name for tool in self.http_tools]),
            *_twice("mcp_servers and stdio_servers", mcp_names),
            *(f"mcp_servers and stdio_servers: {name!r} is ours" for name in mcp_names if name in OURS),
            *(problem for entry in with_secrets for problem in _secret_problem(entry)),
        ]


def _twice(where: str, names: list[str]) -> list[str]:
    return [f"{where}: the name {name!r} is used {count} times" for name, count in Counter(names).items() if count > 1]


def _secret_problem(entry: HttpTool | McpServer) -> list[str]:
    try:
        if entry.credential is not None:
            entry.credential.as_header()
    except (OSError, ValueError) as error:
        return [f"{entry.name}: credential: {error}"]
    return []


class _StrictLoader(yaml.SafeLoader):
    """YAML without silent overwriting: a key that stands twice in one mapping is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in counts.items():
            if count > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands {count} times", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


def load_registry(path: Path) -> Registry:
    """The registry in ``path``; an empty file is an empty registry.

    Raises:
        RegistryError: with everything that is wrong.
    """
    try:
        with path.open("rb") as stream:
            document = yaml.load(stream, Loader=_StrictLoader)  # noqa: S506  a SafeLoader, stricter still
        registry = Registry.model_validate(document or {})
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise RegistryError((f"{path}: {error}",)) from error
    except ValidationError as error:
        raise RegistryError(tuple(_sentence(path, fault) for fault in error.errors())) from error
    if problems := registry.problems():
        raise RegistryError(tuple(f"{path}: {problem}" for problem in problems))
    return registry


def _sentence(path: Path, fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    return f"{path}: {where}: {fault['msg']}"
