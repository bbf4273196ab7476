"""A page of observations as the gateway packs it, in the shape of the one for people; bytes stay bytes."""

from __future__ import annotations

import json
from typing import Any

from controlplane.drift.observed import MEDIA_TYPE, Item, Passed, decode_page


def decoded(media_type: str, body: bytes) -> Any:
    """Raises ``ValueError``: bytes that are not what their type says."""
    if media_type != MEDIA_TYPE:
        return json.loads(body or b"{}")
    page = decode_page(body)
    listed = [_said(seq, item) for seq, item in enumerate(page.items, page.first)]
    return {"observations": listed, "next": page.next, "lost": page.lost, "boot": page.boot}


def _said(seq: int, item: Item) -> dict[str, Any]:
    said: dict[str, Any] = {"seq": seq, "kind": item.__struct_config__.tag}
    for name in item.__struct_fields__:
        said[name] = getattr(item, name)
    if isinstance(item, Passed):
        said["reply"] = b"".join(item.reply)
    return said
