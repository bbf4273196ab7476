"""A change by a person: recorded with its reason, then done. What could not be done is recorded as well."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from audit import AuditUnavailable
from controlplane.calls import Principal
from controlplane.console.ports import Append, BreakerControl, ConsoleError, ModelControl, Receipt

CHANGE, CHANGE_FAILED = "console.change", "console.change_failed"
HOLD = "operator"  # the word under which a person holds a breaker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    by: Principal
    reason: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    append: Append
    breakers: BreakerControl
    models: ModelControl

    async def hold(self, name: str, wish: Wish) -> Receipt:
        """Raises ``AuditUnavailable``: not recorded, therefore not done."""
        return await self._do({"what": "breaker.hold", "breaker": name}, wish, lambda: self._switch(name, held=True))

    async def release(self, name: str, wish: Wish) -> Receipt:
        return await self._do(
            {"what": "breaker.release", "breaker": name}, wish, lambda: self._switch(name, held=False)
        )

    async def move_label(self, model: str, label: str, version: int, wish: Wish) -> Receipt:
        """Raises also ``ChangeRefused`` and ``ChangeFailed``."""
        what = {"what": "model.label", "model": model, "label": label, "version": version}
        return await self._do(what, wish, lambda: self.models.move_label(model, label, version))

    async def _switch(self, name: str, *, held: bool) -> None:
        switch = self.breakers.hold if held else self.breakers.release
        switch(name, HOLD)

    async def _do(self, what: Mapping[str, Any], wish: Wish, act: Callable[[], Awaitable[None]]) -> Receipt:
        said = {**what, "reason": wish.reason, "by": wish.by.subject, "tenant": wish.by.tenant}
        if wish.by.chain:
            said["delegation"] = list(wish.by.chain)
        if wish.key:
            said["key"] = wish.key
        receipt = await self.append(CHANGE, {"change": said})
        try:
            await act()
        except ConsoleError as error:
            await self._note_failure(receipt, error)
            raise
        return receipt

    async def _note_failure(self, receipt: Receipt, error: ConsoleError) -> None:
        body = {"change": {"failed": receipt.event_id, "error": error.reason}}
        try:
            await self.append(CHANGE_FAILED, body)
        except AuditUnavailable:
            log.exception("a failed change could not be recorded as failed", extra={"change": receipt.event_id})
