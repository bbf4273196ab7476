"""The call that every list of models is: whoever may list models may list them at any door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.calls import Call, new_call_id


def list_call(door: str, traceparent: str, arguments: Mapping[str, Any] | None = None) -> Call:
    return Call(
        id=new_call_id(),
        door=door,
        action="list",
        resource="/model",
        arguments=arguments or {},
        operation="models",
        traceparent=traceparent,
    )
