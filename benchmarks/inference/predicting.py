"""What the gateway adds to a Predict: gRPC through it and REST through it, against the model server asked directly.

    python -m benchmarks.inference predicting [--calls 400] [--callers 16]

Everything is on: token, policy, fsynced ledger, metrics. The model server is the embedded one over a real SavedModel.
The three ways take turns within each round. Prints the median latency of one caller, and calls a second of many.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import yaml

from benchmarks.gateway.parts import free_ports
from benchmarks.gateway.world import AGENT, ROOT, TENANT
from inference.savedmodel import export_mlp
from inference.tfserving.predict import encode_predict
from inference.tfserving.wire import METHODS

COLUMNS = 30
ROUNDS = 5
START_LIMIT_S = 60.0
Ask = Callable[[], Awaitable[object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400, help="calls of one way in a round")
    parser.add_argument("--callers", type=int, default=16, help="callers at once, for the rate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, world(Path(folder)) as (model, http, rpc, token):
        asyncio.run(compare(model, http, rpc, token, options))


async def compare(model: int, http: int, rpc: int, token: str, options: argparse.Namespace) -> None:
    rows = np.random.default_rng(0).normal(size=(1, COLUMNS)).astype(np.float32)
    message, document = encode_predict("risk", {"x": rows}), {"inputs": rows.tolist()}
    metadata = (("authorization", f"Bearer {token}"),)
    headers = {"authorization": f"Bearer {token}"}
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{model}") as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{rpc}") as gateway,
        aiohttp.ClientSession(headers=headers) as session,
    ):
        direct, through = (one.unary_unary(METHODS["Predict"].path) for one in (server, gateway))
        url = f"http://127.0.0.1:{http}/v1/models/risk:predict"

        async def rest() -> None:
            async with session.post(url, json=document) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()

        ways: dict[str, Ask] = {
            "gRPC, direct": lambda: direct(message),
            "gRPC, through the gateway": lambda: through(message, metadata=metadata),
            "REST, through the gateway": rest,
        }
        await until_served(ways)
        report(await measured(ways, options.calls, 1), await measured(ways, options.calls, options.callers), options)


async def until_served(ways: dict[str, Ask]) -> None:
    limit = time.monotonic() + START_LIMIT_S
    for ask in ways.values():
        while True:
            try:
                await ask()
                break
            except (grpc.aio.AioRpcError, aiohttp.ClientError, AssertionError):
                if time.monotonic() > limit:
                    raise
                await asyncio.sleep(0.2)


async def measured(ways: dict[str, Ask], calls: int, callers: int) -> dict[str, tuple[float, float]]:
    """Median latency in µs and calls a second, by way; the median of the rounds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, ask in ways.items():
            spans: list[float] = []
            began = time.perf_counter()
            await asyncio.gather(*(_ask(ask, calls // callers, spans) for _ in range(callers)))
            found[name].append((statistics.median(spans) * 1e6, len(spans) / (time.perf_counter() - began)))
    return {name: (_middle(each, 0), _middle(each, 1)) for name, each in found.items()}


async def _ask(ask: Ask, calls: int, spans: list[float]) -> None:
    for _ in range(calls):
        began = time.perf_counter()
        await ask()
        spans.append(time.perf_counter() - began)


def _middle(rounds: list[tuple[float, float]], column: int) -> float:
    return statistics.median(each[column] for each in rounds)


def report(
    alone: dict[str, tuple[float, float]], many: dict[str, tuple[float, float]], options: argparse.Namespace
) -> None:
    base_us, base_rate = alone["gRPC, direct"][0], many["gRPC, direct"][1]
    print(f"{'':28}{'p50 µs, 1 caller':>18}{'added µs':>12}{f'calls/s, {options.callers}':>14}{'of direct':>12}")
    for name, (p50_us, _) in alone.items():
        rate = many[name][1]
        print(f"{name:28}{p50_us:18.0f}{p50_us - base_us:12.0f}{rate:14.0f}{rate / base_rate:12.2f}")


@contextmanager
def world(folder: Path) -> Iterator[tuple[int, int, int, str]]:
    """A model server and a gateway before it; their ports (model server, HTTP, gRPC) and a token."""
    model, http, rpc = free_ports(3)
    random = np.random.default_rng(0)
    layers = [(random.normal(size=(COLUMNS, 16)), random.normal(size=16)), (random.normal(size=(16, 2)), np.zeros(2))]
    names = [f"c{number}" for number in range(COLUMNS)]
    export_mlp(folder / "models" / "risk" / "1", layers, feature_names=names, class_names=["low", "high"])
    token = _made(folder, model, http, rpc)
    serve = [sys.executable, "-m", "inference.tfserving.server", f"--base={folder / 'models'}", f"--port={model}"]
    govern = [sys.executable, "-m", "controlplane.cli", "gateway", "--config", str(folder / "gateway.yaml")]
    with (folder / "log").open("wb") as log:
        processes = [subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT) for command in (serve, govern)]
    try:
        yield model, http, rpc, token
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


def _made(folder: Path, model: int, http: int, rpc: int) -> str:
    """Policies, keys and settings on disk; the agent's token."""
    tenant = folder / "policies" / "tenants" / TENANT / "rules.yaml"
    subprocess.run(["cp", "-r", str(ROOT / "policies"), str(folder / "policies")], check=True)
    tenant.parent.mkdir()
    rule = {"id": "bench.allow", "on": "/model/risk", "do": "infer", "effect": "allow", "principals": [AGENT]}
    agent = {"id": AGENT, "roles": [], "attributes": {"external": False, "clearance": 2, "risk": 10}}
    tenant.write_text(yaml.safe_dump({"tenant": TENANT, "principals": [agent], "rules": [rule]}), "utf-8")
    command = [sys.executable, "-m", "controlplane.cli", "token", "--subject", AGENT, "--tenant", TENANT]
    command += ["--directory", str(folder / "identity")]
    token = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    settings = {
        "state": str(folder / "state"),
        "server": {"http_port": http, "grpc_port": rpc},
        "identity": {
            "issuer": "urn:controlplane:development-issuer",
            "audience": "urn:controlplane:gateway",
            "jwks_file": str(folder / "identity" / "development-jwks.json"),
        },
        "policy": {"path": str(folder / "policies")},
        "audit": {
            "path": str(folder / "ledger.sqlite"),
            "signing_key": str(folder / "signing.key"),
            "commitment_key": str(folder / "commitment.key"),
        },
        "telemetry": {"metrics_port": 0, "log_level": "warning"},
        "adaptation": {"enabled": False},  # a full machine would be throttled
        "backends": {
            "tfs": {
                "kind": "tfserving",
                "target": f"127.0.0.1:{model}",
                "models": {"risk": str(folder / "models" / "risk")},
            }
        },
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    return token


if __name__ == "__main__":
    main()
