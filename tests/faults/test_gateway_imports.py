"""A gateway that serves calls never imports what trains models or writes reports: they are large, and slow to start."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import anyio

from tests.matrix.upstreams import Upstream
from tests.matrix.world import World

HEAVY = ("tensorflow", "pandas", "evidently", "sklearn", "scipy", "torch", "vllm", "transformers")
HEAVY += ("procrastinate", "psycopg", "kfp", "mlflow")  # who trains elsewhere
PROGRAM = """
import asyncio, json, sys
from pathlib import Path

import aiohttp
import controlplane.cli
import controlplane.serve
from controlplane.settings import load
from controlplane.wiring import ControlPlane
from tests.matrix.world import listening

ASKED = {
    "/tools/refund": {"amount": 1},
    "/v1/chat/completions": {"model": "tiny", "messages": []},
    "/v1/models/risk:predict": {"instances": [[1.0, 2.0]]},
    "/mcp/clock": {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
    "/v1/models": None,
}

async def main(settings, token):
    headers = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}
    answers = {}
    async with ControlPlane(settings) as plane, listening(plane.app) as port, aiohttp.ClientSession() as session:
        for path, body in ASKED.items():
            method = "GET" if body is None else "POST"
            async with session.request(method, f"http://127.0.0.1:{port}{path}", json=body, headers=headers) as reply:
                answers[path] = reply.status
    print(json.dumps({"answers": answers, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))

asyncio.run(main(load(Path(sys.argv[1])), sys.argv[2]))
"""


async def test_a_serving_gateway_never_imports_what_is_heavy(tmp_path: Path) -> None:
    """Stand-ins for all of them can be imported, so that even an import that is only tried would be seen."""
    for name in HEAVY:
        (tmp_path / "path" / name).mkdir(parents=True)
        (tmp_path / "path" / name / "__init__.py").touch()
    async with Upstream() as upstream:
        world = World(tmp_path, upstream)
        world.build()
        config = tmp_path / "controlplane.yaml"
        config.write_text(json.dumps(world.document()))
        here = str(Path(__file__).parents[2])
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, str(config), world.tokens["good"]),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{tmp_path / 'path'}{os.pathsep}{here}"},
            cwd=here,
        )
        with anyio.fail_after(300):
            printed, _ = await program.communicate()
    told = json.loads(printed)
    assert set(told["answers"].values()) == {200}, told["answers"]
    assert set(HEAVY) & set(told["modules"]) == set()
