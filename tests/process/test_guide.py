"""docs/GUIDE.md is what newcomers type: every command in it works, in its order, on what `make up` starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 600
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN = [  # what the text around the commands promises, in their order
    "x-served-by: risk/1",
    "['get_current_time']",
    '"rule_denied"',
    "support.refund.huge  roles/support.yaml:24",
    "policies: no errors",
    '"reason":"approval_required"',
    "still needs 1 ",
    "done; ledger entry",
    '"amount": 400, "paid_to"',
    "SOUND",
    '"kind": "deny"',
    "agent:analyst",
    "label stable -> 1",
    "versions 1, 2",
    "canary",
    '"accepted":1',
    "risk/1: ",
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("guide") / "up"
    command = [sys.executable, "-m", "examples.demo", "up", "--folder", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        said: list[str] = []
        while not said or ("Stop with Ctrl-C" not in said[-1] and said[-1]):
            said.append(demo.stdout.readline())
        assert said[-1], "".join(said)
        yield folder
        demo.terminate()


def test_every_command_of_the_guide_works(running: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "GUIDE.md").read_text("utf-8"))
    script = "\n".join(["set -euo pipefail", *blocks]).replace("var/up", str(running))
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(
        ["bash"], input=script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rest = done.stdout
    for words in SHOWN:
        _, found, rest = rest.partition(words)
        assert found, f"{words!r} is not shown, or not in its place:\n{done.stdout}"
