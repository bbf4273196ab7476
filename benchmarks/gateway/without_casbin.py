"""The gateway with casbin's share of a decision taken out: everything else is done as ever, obligations included."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.gateway.world import ALLOW
from controlplane.policy import BundlePolicy
from controlplane.policy.enforcer import Enforcers, Request
from controlplane.serve import serve
from controlplane.settings import load


def permit(_: BundlePolicy, enforcers: Enforcers, request: Request) -> bool:  # noqa: ARG001  the signature it replaces
    """As if the one rule that allows the benchmark's call had been found at no cost."""
    request.context.matched.append(ALLOW)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args()
    BundlePolicy._enforce = permit  # type: ignore[method-assign, assignment]  # noqa: SLF001  what this program is for
    serve(load(options.config))


if __name__ == "__main__":
    main()
