"""``python -m examples.demo`` tells the story and stops; ``python -m examples.demo up`` leaves everything running."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from examples.demo.cast import start_all, start_language_model
from examples.demo.parts import PartFailed, Parts, free_port
from examples.demo.stage import Stage
from examples.demo.story import story
from examples.demo.terminal import Terminal

ENDS = (signal.SIGTERM, signal.SIGHUP)  # a terminal that is closed must not leave the parts behind


async def tell(stage: Stage, parts: Parts, terminal: Terminal) -> None:
    async with story(stage, parts, terminal) as told:
        await told.tell()


def invite(stage: Stage, terminal: Terminal) -> None:
    """What to try while everything runs."""
    terminal.chapter("Everything is running")
    terminal.say(f"console     {stage.url}/console")
    terminal.say(f"API docs    {stage.url}/api/docs")
    terminal.say(f"metrics     http://127.0.0.1:{stage.metrics}/metrics")
    terminal.say(f"gRPC        127.0.0.1:{stage.grpc}   (TF Serving's PredictionService)")
    terminal.say("An operator's token, good for the console and for /api:")
    print(f"\n  {stage.tokens['operator']}\n")
    terminal.say(f"A token of finance, who approve large refunds: {stage.folder / 'finance.token'}")
    terminal.say("Three commands to try in another terminal, after the line above them; docs/GUIDE.md goes on:")
    rows = '{"instances": [[4.6, 0, 6.5, 5.2, 0, 10.6, 1, 0, 0]]}'
    print(
        f"""
  . {shlex.quote(str(stage.folder / "env"))}

  curl $CONTROLPLANE_URL/v1/models/risk:predict -H "authorization: Bearer $ANALYST" -d '{rows}'

  curl $CONTROLPLANE_URL/tools/refund -H "authorization: Bearer $SUPPORT" -d '{{"order": "A-20", "amount": 5000}}'

  controlplane audit verify

Stop with Ctrl-C.
""",
        flush=True,
    )


def emptied(folder: Path) -> TextIO:
    """Make ``folder`` anew. It is ours, and nobody else's, until what is returned is closed. Raises ``PartFailed``."""
    lock = folder / "demo.lock"
    if not lock.exists() and folder.exists() and any(folder.iterdir()):
        raise PartFailed(f"{folder} holds what no demo made; remove it, or name another with --folder")
    folder.mkdir(parents=True, exist_ok=True)
    held = lock.open("w")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise PartFailed(f"{folder} is in use: a demo runs in another terminal; stop it first") from None
    for each in folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        elif each != lock:
            each.unlink()
    return held


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("act", nargs="?", choices=["story", "up"], default="story")
    parser.add_argument("--folder", type=Path, help="where everything is kept (story: a temporary folder)")
    parser.add_argument("--llm", action="store_true", help="put vLLM for CPU with a tiny local model beside it")
    options = parser.parse_args()
    for number in ENDS:
        signal.signal(number, lambda *_: sys.exit(1))
    terminal = Terminal()
    kept = options.folder or (Path("var/up") if options.act == "up" else None)
    folder = Path(tempfile.mkdtemp(prefix="controlplane-demo-")) if kept is None else kept.absolute()
    try:
        _lock = emptied(folder) if options.act == "up" else None
        return perform(options, folder, terminal)
    except PartFailed as failure:
        terminal.check(False, str(failure))
        kept = folder  # its logs are wanted
        return terminal.verdict()
    except KeyboardInterrupt:
        return 0
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


def perform(options: argparse.Namespace, folder: Path, terminal: Terminal) -> int:
    stage = Stage(folder)
    if options.act == "up":
        stage.http, stage.grpc = free_port(8080), free_port(8500)
    if options.llm:
        stage.llm_url = f"http://127.0.0.1:{stage.language}/v1"
    terminal.chapter("Setting the stage")
    stage.set_up(terminal)
    with Parts(folder) as parts:
        try:
            if options.llm:
                start_language_model(parts, stage, terminal)
            start_all(parts, stage, terminal)
            if options.act == "up":
                invite(stage, terminal)
                signal.pause()
            asyncio.run(tell(stage, parts, terminal))
        finally:
            for number in (signal.SIGINT, *ENDS):  # a second one, while parts are stopped, would leave some behind
                signal.signal(number, signal.SIG_IGN)
    return terminal.verdict()


if __name__ == "__main__":
    sys.exit(main())
