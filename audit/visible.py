"""Names that callers chose, as people may be shown them."""

from __future__ import annotations

import json
from itertools import groupby

EMPTY_LINES = 3  # so many in a row are shown as they are


def visible(text: str) -> str:
    """What cannot be seen, turns a line around, begins one or steers a terminal is shown as JSON escapes it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def visible_lines(text: str) -> list[str]:
    """Each line as ``visible`` shows it. Nothing is pushed out of sight by lines that are empty."""
    shown: list[str] = []
    for is_empty, group in groupby(text.split("\n"), key=lambda line: not line.strip()):
        found = list(group)
        shown += [f"… {len(found):,} empty lines"] if is_empty and len(found) > EMPTY_LINES else map(visible, found)
    return shown
