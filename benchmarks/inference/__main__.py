"""``python -m benchmarks.inference PART [options]``; without a part, all of them in turn."""

from __future__ import annotations

import sys
from importlib import import_module

PARTS = ("encoding", "imports", "predicting", "routing", "overhead", "reality", "freeze", "selection")
"""Modules beside this one, each with a ``main`` that reads the command line."""


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] not in PARTS:
        print(f"no part {arguments[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for part in arguments[:1] or PARTS:
        print(f"== {part}", flush=True)
        sys.argv[1:] = arguments[1:]
        import_module(f"benchmarks.inference.{part}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
