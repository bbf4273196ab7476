"""What it costs a process to speak TF Serving's gRPC: seconds of processor time to import, and memory afterwards.

    python -m benchmarks.inference imports

Ours beside the official stubs, each in fresh processes of the same run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.inference.encoding import TENSORFLOW

ROOT = Path(__file__).parents[2]
ROUNDS = 5
TARGET_S, TARGET_MIB = 0.5, 60
COST = """
import json, time
began = time.process_time()
import {modules}
spent = time.process_time() - began
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps([spent, pages * 4096 / 2**20]))
"""


def cost_of(python: Path | str, modules: str) -> tuple[float, float]:
    """Median processor seconds and MiB of resident memory over the rounds, byte code compiled already."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    told = []
    for _ in range(ROUNDS + 1):
        command = [str(python), "-c", COST.format(modules=modules)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        told.append(json.loads(said.stdout.splitlines()[-1]))
    seconds, sizes = zip(*told[1:], strict=True)
    return statistics.median(seconds), statistics.median(sizes)


def main() -> None:
    rows = {"wire and grpc.aio": cost_of(sys.executable, "inference.tfserving.wire, grpc.aio")}
    if TENSORFLOW.exists():
        stubs = "tensorflow_serving.apis.prediction_service_pb2_grpc"
        rows["official stubs"] = cost_of(TENSORFLOW, stubs)
    print(f"{'':24}{'processor s':>14}{'MiB':>10}")
    for name, (seconds, mib) in rows.items():
        print(f"{name:24}{seconds:14.2f}{mib:10.0f}")
    seconds, mib = rows["wire and grpc.aio"]
    verdict = "met" if seconds <= TARGET_S and mib <= TARGET_MIB else "MISSED"
    print(f"wanted: at most {TARGET_S} s and {TARGET_MIB} MiB: {verdict}")


if __name__ == "__main__":
    main()
