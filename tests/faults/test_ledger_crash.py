"""kill -9 under concurrent writers: nothing acknowledged is lost, the log verifies, no intent stays open."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path

from audit import AuditSettings, SqliteLedger
from audit.verify import verify

ROUNDS = 20
CHILD = """
import asyncio, os, sys
from pathlib import Path
from audit import AuditSettings, SqliteLedger

async def main(folder):
    ledger = SqliteLedger(AuditSettings(path=folder / "ledger.sqlite", signing_key=folder / "signing.key",
                                        origin="test.local/audit"))
    await ledger.open()

    async def caller(number):
        while True:
            intent = await ledger.append("intent", {"caller": number}, opens=True)
            os.write(1, f"{intent.index} {intent.leaf_hash.hex()}\\n".encode())
            await asyncio.sleep(0)
            outcome = await ledger.append("outcome", {"caller": number}, closes=intent.event_id)
            os.write(1, f"{outcome.index} {outcome.leaf_hash.hex()}\\n".encode())

    await asyncio.gather(*(caller(number) for number in range(24)))

asyncio.run(main(Path(sys.argv[1])))
"""


def killed_after(lines: int, folder: Path) -> dict[int, str]:
    """Index → leaf hash of everything the child acknowledged before it was killed."""
    with subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        read = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        read += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    whole = [line.split() for line in read if line.endswith(b"\n")]
    return {int(index): leaf.decode() for index, leaf in whole}


async def reopen(settings: AuditSettings) -> tuple[str, dict[str, int]]:
    ledger = SqliteLedger(settings)
    await ledger.open()
    left = ledger.open_intents()
    await ledger.close()
    return ledger.verifier_key, left


def test_a_killed_process_loses_no_acknowledged_record(tmp_path: Path) -> None:
    settings = AuditSettings(
        path=tmp_path / "ledger.sqlite", signing_key=tmp_path / "signing.key", origin="test.local/audit"
    )
    acknowledged: dict[int, str] = {}
    chance = random.Random(6962)
    recovered = 0
    for _ in range(ROUNDS):
        before = len(acknowledged)
        landed = killed_after(chance.randrange(1, 200), tmp_path)
        assert not landed.keys() & acknowledged.keys(), "one index, two records"
        acknowledged |= landed
        assert len(acknowledged) > before
        key, left = asyncio.run(reopen(settings))
        assert left == {}
        report = verify(settings.path, key)
        assert report.is_sound, report.faults
        assert report.open_intents == {}
        assert report.kinds["intent"] == report.kinds["outcome"]
        recovered = report.kinds["recovery"]
    assert recovered, "no kill met a call on its way"
    ledger = SqliteLedger(settings)
    stored = {record.index: record.leaf_hash.hex() for record in ledger.read(limit=10_000_000)}
    assert {index: stored.get(index) for index in acknowledged} == acknowledged
