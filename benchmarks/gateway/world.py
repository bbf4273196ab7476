"""What the contestants need on disk: a policy of a given size, keys, a token, settings, the stub's configuration."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from controlplane.policy.bundle import build, read_files
from controlplane.policy.rules import ANYWHERE

ROOT = Path(__file__).parents[2]
TENANT, AGENT, ACTION, MODEL = "bench", "agent:bench", "infer", "tiny"
ALLOW = "bench.allow"
LITELLM_KEY = "sk-bench-0123456789abcdef0123456789abcdef-long-key"
REQUEST = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 64}
REPLY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello from the stub."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
}
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 100000000;
server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ return 200 '{reply}'; }}
location = /v1/models {{ return 200 '{models}'; }} }} }}
"""
LUA = """wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"
wrk.body = {body}
{authorization}
function done(summary, latency, requests)
  local e = summary.errors
  io.stderr:write(string.format('{{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Ports:
    stub: int
    passthrough: int
    recorded: int
    gateway: int
    gateway_casbin: int
    without_casbin: int
    litellm: int


@dataclass(frozen=True, slots=True)
class World:
    folder: Path
    ports: Ports

    def make(self, rules: int) -> None:
        stub = NGINX.format(
            folder=self.folder, port=self.ports.stub, reply=json.dumps(REPLY), models=json.dumps(MODELS)
        )
        (self.folder / "nginx.conf").write_text(stub, "utf-8")
        write_policy(self.folder / "policies", rules)
        token = self._token()
        self._script("plain", "")
        self._script("gateway", token)
        self._script("litellm", LITELLM_KEY)
        self._settings("recorded", self.ports.recorded)
        self._settings("gateway", self.ports.gateway)
        self._settings("gateway-casbin", self.ports.gateway_casbin, engine="casbin")
        self._settings("without-casbin", self.ports.without_casbin)
        upstream = {"model": f"openai/{MODEL}", "api_base": f"{self.stub_url}/v1", "api_key": "sk-upstream"}
        litellm = {
            "model_list": [{"model_name": MODEL, "litellm_params": upstream}],
            "general_settings": {"master_key": LITELLM_KEY},
        }
        (self.folder / "litellm.yaml").write_text(yaml.safe_dump(litellm), "utf-8")

    @property
    def stub_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.stub}"

    def ledger(self, name: str) -> Path:
        return self.folder / name / "ledger.sqlite"

    def _token(self) -> str:
        command = [sys.executable, "-m", "controlplane.cli", "token", "--subject", AGENT, "--tenant", TENANT]
        command += ["--ttl", "12h", "--directory", str(self.folder / "identity")]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()

    def _script(self, name: str, token: str) -> None:
        authorization = f'wrk.headers["Authorization"] = "Bearer {token}"' if token else ""
        text = LUA.format(body=json.dumps(json.dumps(REQUEST)), authorization=authorization)
        (self.folder / f"{name}.lua").write_text(text, "utf-8")

    def _settings(self, name: str, port: int, engine: str = "snapshot") -> None:
        folder = self.folder / name
        folder.mkdir()
        settings = {
            "state": str(folder / "state"),
            "server": {"http_port": port, "grpc_port": 0},
            "identity": {
                "issuer": "urn:controlplane:development-issuer",
                "audience": "urn:controlplane:gateway",
                "jwks_file": str(self.folder / "identity" / "development-jwks.json"),
            },
            "policy": {"path": str(self.folder / "policies"), "engine": engine},
            "audit": {
                "path": str(self.ledger(name)),
                "signing_key": str(folder / "signing.key"),
                "commitment_key": str(folder / "commitment.key"),
            },
            "telemetry": {"metrics_port": 0, "log_level": "warning"},
            "backends": {"vllm": {"kind": "openai", "base_url": f"{self.stub_url}/v1"}},
        }
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), "utf-8")


def write_policy(folder: Path, rules: int) -> None:
    """The shipped policies and one more tenant with so many rules that a call of ours is held against ``rules``."""
    shutil.copytree(ROOT / "policies", folder, ignore=shutil.ignore_patterns("tests"))
    tenant = folder / "tenants" / TENANT / "rules.yaml"
    tenant.parent.mkdir()
    others = rules - candidates(folder) - 1
    if others < 0:
        raise SystemExit(f"the shipped policies alone hold a call against {rules - others - 1} rules")
    document = {
        "tenant": TENANT,
        "principals": [{"id": AGENT, "roles": [], "attributes": {"external": False, "clearance": 2, "risk": 10}}],
        "rules": [_other(number) for number in range(others)] + [_allow()],
    }
    tenant.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    found = candidates(folder)
    if found != rules:
        raise SystemExit(f"{found} rules could match instead of {rules}")


def candidates(folder: Path) -> int:
    """Lines that our call is held against, and that casbin scans: those of its tenant or of every tenant, with its
    action."""
    lines = [line for rule in build(read_files(folder)).rules.values() for line in rule.lines()]
    return sum(line.domain in (TENANT, ANYWHERE) and line.action in (ACTION, "*") for line in lines)


def _allow() -> dict[str, object]:
    return {
        "id": ALLOW,
        "on": f"/model/{MODEL}",
        "do": ACTION,
        "effect": "allow",
        "when": "r.obj.sensitivity <= r.sub.clearance && r.ctx.args.max_tokens <= 1024",
        "oblige": [{"max_tokens": {"max": 256}}],
        "principals": [AGENT],
    }


def _other(number: int) -> dict[str, object]:
    """Of five, three speak of another model, one of ours to another role, one of all models to somebody else."""
    resources = (f"/model/other-{number}", f"/model/other-{number}", f"/model/{MODEL}", f"/model/other-{number}")
    return {
        "id": f"bench.other-{number}",
        "on": [*resources, "/model/*"][number % 5],
        "do": ACTION,
        "effect": "allow",
        "when": "r.obj.sensitivity <= r.sub.clearance",
        "principals": [f"agent:other-{number}"],
    }
