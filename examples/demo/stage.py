"""Setting the stage: keys, tokens, first models, and the settings of every part, all in one folder."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from controlplane.identity.development import DevelopmentIssuer, Grant
from examples.demo.parts import PartFailed, free_port
from examples.demo.terminal import Terminal
from examples.risk_model.data import FEATURES

ROOT = Path(__file__).parents[2]
TOKEN_TTL_S = 12 * 3600
CAST = {
    "analyst": ("agent:analyst", "agent"),
    "north": ("agent:analyst-north", "agent"),  # one of the hundredth of agents who try a canary first
    "support": ("agent:support", "agent"),
    "monitor": ("service:monitor", "service"),
    "operator": ("user:operator", "user"),
    "finance": ("user:finance", "user"),  # approves what support may not pay alone
}


@dataclass
class Stage:
    """Where everything is. ``tokens`` by the name in ``CAST``."""

    folder: Path
    http: int = field(default_factory=free_port)
    grpc: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)
    monitor_metrics: int = field(default_factory=free_port)
    models: int = field(default_factory=free_port)
    light: int = field(default_factory=free_port)
    refunds: int = field(default_factory=free_port)
    language: int = field(default_factory=free_port)
    llm_url: str = field(default_factory=lambda: os.environ.get("LLM_URL", ""))
    tokens: dict[str, str] = field(default_factory=dict)
    reference: dict[str, int] = field(default_factory=dict)

    @property
    def deployed(self) -> list[str]:
        """The backends whose model servers the gateway tells what to serve."""
        return ["tfs", "tfs-baseline"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @property
    def gateway_yaml(self) -> Path:
        return self.folder / "controlplane.yaml"

    @property
    def monitor_yaml(self) -> Path:
        return self.folder / "monitor.yaml"

    @property
    def ledger(self) -> Path:
        return self.folder / "audit" / "ledger.sqlite"

    def set_up(self, terminal: Terminal) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._train(terminal)
        self._issue_tokens()
        self._write("registry.yaml", self._registry())
        self._write("controlplane.yaml", self._gateway_settings())
        self._write("monitor.yaml", self._monitor_settings())
        self._secret("env", self.shell())

    def shell(self) -> str:
        """What a shell is told so that `controlplane` and curl find the parts: docs/GUIDE.md begins with it."""
        known = {
            "CONTROLPLANE_URL": self.url,
            "CONTROLPLANE_CONFIG": self.gateway_yaml,
            "CONTROLPLANE_MONITOR_CONFIG": self.monitor_yaml,
            "CONTROLPLANE_TOKEN_FILE": self.folder / "operator.token",
            "AUDIT_LEDGER": self.ledger,
            "AUDIT_VERIFIER_KEY": self.ledger.with_name("signing.key.pub"),
            "GRPC": f"127.0.0.1:{self.grpc}",
        }
        lines = [f"export {name}={shlex.quote(str(value))}" for name, value in known.items()]
        lines += [f"export {who.upper()}={token}" for who, token in self.tokens.items()]
        lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
        return "\n".join(lines) + "\n"

    def _train(self, terminal: Terminal) -> None:
        terminal.progress("training the risk model on 8,000 real survey rows")
        for line in _trainer("examples.risk_model.train", "first", str(self.folder / "models/risk/1")):
            said = json.loads(line)
            if "epoch" in said:
                terminal.progress(f"training the risk model: epoch {said['epoch']} of {said['of']}")
            self.reference = said.get("reference", self.reference)
        rows, errors = self.reference["reference_rows"], self.reference["reference_errors"]
        terminal.say(f"risk/1 trained; it errs on {errors / rows:.1%} of {rows:,} rows it has not seen")
        list(_trainer("examples.risk_model.baseline", str(self.folder / "light/risk-baseline/1")))
        terminal.say("risk-baseline/1 trained: lighter, worse, and served by another process")

    def _issue_tokens(self) -> None:
        issuer = DevelopmentIssuer(self.folder / "identity")
        for name, (subject, kind) in CAST.items():
            token = issuer.issue(Grant(subject=subject, tenant="acme", kind=kind), ttl_s=TOKEN_TTL_S)
            self.tokens[name] = token
            self._secret(f"{name}.token", token)
        self._secret("refund.key", os.urandom(16).hex())

    def _registry(self) -> dict[str, Any]:
        key = {"file": str(self.folder / "refund.key"), "header": "x-api-key", "prefix": ""}
        refund = {"name": "refund", "url": f"http://127.0.0.1:{self.refunds}/refund", "credential": key}
        clock = {"name": "time", "command": str(Path(sys.executable).with_name("mcp-server-time"))}
        return {"http_tools": [refund], "stdio_servers": [clock]}

    def _gateway_settings(self) -> dict[str, Any]:
        folder, backends = self.folder, self._backends()
        return {
            "state": str(folder / "state"),
            "server": {"http_port": self.http, "grpc_port": self.grpc, "public_url": self.url},
            "identity": {
                "issuer": "urn:controlplane:development-issuer",
                "audience": "urn:controlplane:gateway",
                "jwks_file": str(folder / "identity/development-jwks.json"),
            },
            "policy": {"path": str(ROOT / "policies")},
            "audit": {
                "path": str(self.ledger),
                "signing_key": str(folder / "audit/signing.key"),
                "commitment_key": str(folder / "audit/commitment.key"),
                "stall_limit_s": 15.0,  # everything else here is on the same disk
            },
            "telemetry": {"metrics_port": self.metrics},
            "breaker": {"open_s": 1.0},
            "console": {"secure_cookie": False},
            "registry": str(folder / "registry.yaml"),
            "backends": backends,
        }

    def _backends(self) -> dict[str, Any]:
        backends: dict[str, Any] = {
            "tfs": {
                "kind": "tfserving",
                "target": f"127.0.0.1:{self.models}",
                "models": {"risk": str(self.folder / "models/risk")},
            },
            "tfs-baseline": {
                "kind": "tfserving",
                "target": f"127.0.0.1:{self.light}",
                "models": {"risk-baseline": str(self.folder / "light/risk-baseline")},
            },
        }
        if self.llm_url:
            served = os.environ.get("LLM_MODEL", "tiny")
            dialect = os.environ.get("LLM_DIALECT", "vllm")  # openai for any other server
            backends["vllm"] = {
                "kind": "openai",
                "base_url": self.llm_url,
                "served_model": served,
                "dialect": dialect,
            }
        return backends

    def _monitor_settings(self) -> dict[str, Any]:
        trainer = ROOT / "examples" / "risk_model"
        watched = {
            "name": "risk",
            "feature_names": list(FEATURES),
            "watch": {**self.reference, "rows_per_principal_per_block": 50, "corroborating_principals": 1},
            "training": {
                "command": ["{python}", "-m", "examples.risk_model.train", "rows", "{rows}", "{out}"],
                "code": [str(trainer / "train.py"), str(trainer / "network.py")],
                "rows_after_change": 800,  # the default waits for 2,000; a story should not
            },
            "acting": {
                "fallback": str(self.folder / "light/risk-baseline/1"),
                "shadow_percent": 100,  # in a story there are few calls, of many rows each
                "shadow_rows": 100,
                "canary_rows": 100,
            },
            "blocks": {"rows_per_principal": 50},
        }
        return {
            "gateway_url": self.url,
            "token_file": str(self.folder / "monitor.token"),
            "state_dir": str(self.folder / "monitor"),
            "models_root": str(self.folder / "models"),
            "poll_s": 0.2,
            "telemetry": {"metrics_port": self.monitor_metrics},
            "models": [watched],
        }

    def _write(self, name: str, document: dict[str, Any]) -> None:
        (self.folder / name).write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")

    def _secret(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text + "\n", "utf-8")


def _trainer(*command: str) -> list[str]:
    """Lines of a trainer's output. Raises ``PartFailed``."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise PartFailed(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout.splitlines()
