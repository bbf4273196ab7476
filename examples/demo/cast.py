"""Starting the cast: two model servers, the refund tool, the gateway (with the time server behind it), the monitor."""

from __future__ import annotations

import urllib.error
import urllib.request

from examples.demo.parts import Parts, listens
from examples.demo.stage import ROOT, Stage
from examples.demo.terminal import Terminal


def get(url: str) -> tuple[int, bytes]:
    """Status (0: nobody there) and body of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def start_model_server(parts: Parts, stage: Stage) -> None:
    parts.start(
        "model-server",
        [
            "-m",
            "inference.tfserving.server",
            "--model",
            f"risk={stage.folder / 'models/risk'}",
            "--port",
            str(stage.models),
        ],
        lambda: listens(stage.models),
    )


def start_language_model(parts: Parts, stage: Stage, terminal: Terminal) -> None:
    """vLLM for CPU with a tiny model made here: its text means nothing, its protocol is exact."""
    terminal.progress("starting vLLM on the CPU (half a minute or more)")
    command = [str(ROOT / "examples/tiny_llm/serve.py"), "--model", str(stage.folder / "tiny-llm")]
    command += ["--port", str(stage.language)]
    ready = f"http://127.0.0.1:{stage.language}/health"
    python = str(ROOT / ".venv-vllm/bin/python")
    parts.start("vllm", command, lambda: get(ready)[0] == 200, python=python)
    terminal.say(
        f"vLLM              http://127.0.0.1:{stage.language} (a tiny model made here; its text means nothing)"
    )


def start_all(parts: Parts, stage: Stage, terminal: Terminal) -> None:
    terminal.progress("starting model servers")
    start_model_server(parts, stage)
    light = stage.folder / "light/risk-baseline"
    parts.start(
        "light-model-server",
        ["-m", "inference.tfserving.server", "--model", f"risk-baseline={light}", "--port", str(stage.light)],
        lambda: listens(stage.light),
    )
    terminal.say(f"model servers     gRPC 127.0.0.1:{stage.models} and :{stage.light} (TF Serving's protocol)")
    key = stage.folder / "refund.key"
    parts.start(
        "refund-tool",
        [str(ROOT / "examples/refund_tool.py"), "--port", str(stage.refunds), "--api-key-file", str(key)],
        lambda: listens(stage.refunds),
    )
    terminal.say(f"refund tool       http://127.0.0.1:{stage.refunds} (plain HTTP, trusts only the gateway's key)")
    terminal.progress("starting the gateway")
    start_gateway(parts, stage)
    terminal.say(f"gateway           {stage.url}, gRPC 127.0.0.1:{stage.grpc}")
    parts.start("monitor", ["-m", "controlplane.cli", "monitor", "--config", str(stage.monitor_yaml)], lambda: True)
    terminal.say("monitor           a process of its own, with a token of its own")


def start_gateway(parts: Parts, stage: Stage) -> None:
    """Returns when it is ready, both models are deployed and the MCP server behind it is up: its log says so."""
    log = stage.folder / "logs/gateway.log"

    def is_up() -> bool:
        said = log.read_text("utf-8")
        deployed = said.count("model server serves what it should") >= len(stage.deployed)
        return get(f"{stage.url}/readyz")[0] == 200 and deployed and "MCP server is up" in said

    parts.start("gateway", ["-m", "controlplane.cli", "gateway", "--config", str(stage.gateway_yaml)], is_up)
