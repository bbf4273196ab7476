"""Names that callers chose, as people may be shown them."""

from __future__ import annotations

import json


def visible(text: str) -> str:
    """What cannot be seen, turns a line around, begins one or steers a terminal is shown as JSON escapes it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)
