"""Serve the tiny model with vLLM on the CPU, show how the start goes, print the URL, stop with the process.

    .venv-vllm/bin/python examples/tiny_llm/serve.py [--model FOLDER] [--port 8000] [--api-key-file FILE] [-- FLAGS]

Makes the model first when it is not there. The last line printed is ``ready URL``. Half a minute on a quiet machine.
What follows ``--`` goes to vLLM as it is; ``-- --runner=pooling --convert=embed`` serves embeddings, scores and ranks.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
START_LIMIT_S = 300.0
PROGRESS_EVERY_S = 5.0
STOP_LIMIT_S = 20.0
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",  # with two threads on two cores the slowest answers took ten times as long
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
FLAGS = [
    "--served-model-name=tiny",
    "--dtype=float32",
    "--max-model-len=1024",
    "--enforce-eager",
    "--kv-cache-memory-bytes=64M",  # without it vLLM wants most of the machine's memory and refuses to start
    "--block-size=32",  # the CPU kernels need a multiple of 32; the default of 128 never finds a cached prefix here
    "--max-num-seqs=16",
    "--scheduling-policy=priority",
    "--enable-request-id-headers",
    "--enable-prompt-tokens-details",
]


def main() -> int:
    options = arguments()
    if not (options.model / "config.json").exists():
        print(f"making the model in {options.model}", flush=True)
        subprocess.run([sys.executable, HERE / "make.py", options.model], check=True)
    server = start(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        return wait(server, f"http://127.0.0.1:{options.port}")
    except KeyboardInterrupt:
        return 0
    finally:
        stop(server)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("var/tiny-llm"))
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("flags", nargs="*", help="more flags for vLLM, after --")
    parser.add_argument("--log", type=Path, help="where vLLM's own words go (default: beside the model)")
    return parser.parse_args()


def start(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    environment = os.environ | ENVIRONMENT
    if options.api_key_file:
        environment["VLLM_API_KEY"] = options.api_key_file.read_text("utf-8").strip()  # not in the process list
    # `vllm serve` asks for the metadata of a package named vllm, which the CPU package is not
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={options.model}"]
    command += ["--host=127.0.0.1", f"--port={options.port}", *FLAGS, *options.flags]
    log = options.log or options.model.with_suffix(".log")
    print(f"starting vLLM on the CPU (log: {log})", flush=True)
    with log.open("wb") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)


def wait(server: subprocess.Popen[bytes], origin: str) -> int:
    """Until the server is ready, then until it ends."""
    began, told = time.monotonic(), 0.0
    while not is_ready(origin):
        waited = time.monotonic() - began
        if server.poll() is not None or waited > START_LIMIT_S:
            print(f"vLLM did not start (exit code {server.returncode}, {waited:.0f} s); see its log", flush=True)
            return 1
        if waited - told >= PROGRESS_EVERY_S:
            told = waited
            print(f"  still starting, {waited:.0f} s", flush=True)
        time.sleep(0.25)
    print(f"ready {origin}/v1", flush=True)
    return server.wait()


def is_ready(origin: str) -> bool:
    try:
        with urllib.request.urlopen(f"{origin}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
