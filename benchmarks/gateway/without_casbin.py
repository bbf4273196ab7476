"""The gateway with the search for rules taken out of a decision, whichever engine searches: everything else is done as
ever, obligations included. Its distance from the gateway is what a faster engine could still win."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.gateway.world import ALLOW
from controlplane.policy.enforcer import Casbin
from controlplane.policy.engine import GRANTED, Answer
from controlplane.policy.snapshot import Snapshot
from controlplane.serve import serve
from controlplane.settings import load


def found_at_no_cost(*_: object) -> Answer:
    """As if the one rule that allows the benchmark's call had been found at once."""
    return GRANTED, (ALLOW,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args()
    for engine in (Snapshot, Casbin):
        engine.answer = found_at_no_cost  # type: ignore[method-assign]  # what this program is for
    serve(load(options.config))


if __name__ == "__main__":
    main()
