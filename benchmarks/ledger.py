"""Awaited durable appends: records/s, latency and CPU per record at several concurrencies, with the machine's load.

    python -m benchmarks.ledger [--writer process thread] [--seconds 3] [--folder DIR]

Each caller appends an intent and then its outcome, as a governed call does, and waits for both. CPU is that of this
process and that of the writer's, system time of the fsync included. Run it on the disk that will hold the ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from audit import AuditSettings, SqliteLedger, new_event_id
from audit.verify import verify
from benchmarks.gateway.parts import cpu_of, family

INTENT: dict[str, Any] = {
    "principal": {
        "subject": "agent-7f3a",
        "type": "agent",
        "tenant": "acme",
        "auth": {"method": "jwt", "issuer": "https://issuer.example", "token_jti_hash": "ab" * 32},
    },
    "delegation": [{"subject": "user-12", "depth": 0}],
    "action": {
        "kind": "tool.call",
        "protocol": "mcp",
        "server": "payments",
        "name": "refund",
        "resource": "/mcp/payments/refund",
        "args_commit": "hmac-sha256:" + "cd" * 32,
    },
    "decision": {
        "effect": "allow",
        "reason": "rule_allowed",
        "policy": {"bundle_hash": "ef" * 32},
        "rules": [{"id": "support.refund.small", "source": "roles/support.yaml:14"}],
        "obligations": ["rate_limit"],
        "eval_us": 180,
    },
    "trace": {"trace_id": "0123456789abcdef" * 2, "span_id": "0123456789abcdef"},
}
OUTCOME: dict[str, Any] = {
    "outcome": {"status": "ok", "http_status": 200, "latency_us": 41_000, "result_commit": "hmac-sha256:" + "ab" * 32}
}


async def measure(settings: AuditSettings, callers: int, seconds: float) -> str:
    ledger = SqliteLedger(settings)
    await ledger.open()
    waits_ms: list[float] = []
    until = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < until:
            event_id = new_event_id()
            for kind, body, pairing in (
                ("intent", INTENT, {"event_id": event_id, "opens": True}),
                ("outcome", OUTCOME, {"closes": event_id}),
            ):
                began = time.perf_counter()
                await ledger.append(kind, body, **pairing)
                waits_ms.append((time.perf_counter() - began) * 1000)

    here, beside, wall, first = time.process_time(), writers_cpu_s(), time.perf_counter(), ledger.head.size
    await asyncio.gather(*(caller() for _ in range(callers)))
    here, beside, wall = time.process_time() - here, writers_cpu_s() - beside, time.perf_counter() - wall
    count = ledger.head.size - first
    await ledger.close()
    waits_ms.sort()
    median, tail = waits_ms[len(waits_ms) // 2], waits_ms[len(waits_ms) * 99 // 100]
    spent = f"{here / count * 1e6:>12.0f} {beside / count * 1e6:>8.0f}"
    return f"{count / wall:>10,.0f} {median:>9.2f} {tail:>9.2f} {spent} {os.getloadavg()[0]:>7.2f}"


def writers_cpu_s() -> float:
    """User and system time so far of what this process has started."""
    return sum(cpu_of(Path("/proc", str(pid))) for pid in family(os.getpid())[1:])


def check(settings: AuditSettings) -> str:
    began = time.process_time()
    report = verify(settings.path, settings.signing_key.with_name("signing.key.pub").read_text("utf-8"))
    assert report.is_sound, report.faults
    return f"verified {report.size:,} records, {report.size / (time.process_time() - began):,.0f} per CPU second"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writer", choices=["process", "thread"], nargs="+", default=["process", "thread"])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path())
    options = parser.parse_args()
    print("writer    callers  records/s    p50 ms    p99 ms  CPU us/rec  writer's    load")
    for writer in options.writer:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            settings = AuditSettings(
                path=Path(folder, "ledger.sqlite"),
                signing_key=Path(folder, "signing.key"),
                writer=writer,
            )
            for callers in options.concurrency:
                print(f"{writer:<8} {callers:>8}", asyncio.run(measure(settings, callers, options.seconds)))
            print(check(settings))


if __name__ == "__main__":
    main()
