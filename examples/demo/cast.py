"""Starting the cast: two model servers, the refund tool, the gateway (with the time server behind it), the monitor."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from examples.demo.parts import Parts, listens
from examples.demo.stage import ROOT, Stage
from examples.demo.terminal import Terminal


def get(url: str, token: str = "") -> tuple[int, bytes]:
    """Status (0: nobody there) and body of a GET."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
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
    """Returns when it is ready, every deployed model is served and the MCP server behind it is up."""
    log = stage.folder / "logs/gateway.log"

    def is_up() -> bool:
        if get(f"{stage.url}/readyz")[0] != 200 or "MCP server is up" not in log.read_text("utf-8"):
            return False
        status, said = get(f"{stage.url}/api/models", stage.tokens["operator"])
        if status != 200:
            return False
        deployed = [each for each in json.loads(said)["models"] if each["backend"] in stage.deployed]
        return all(replica["versions"] for each in deployed for replica in each["replicas"])

    parts.start("gateway", ["-m", "controlplane.cli", "gateway", "--config", str(stage.gateway_yaml)], is_up)
