"""A change by a person: recorded with its reason, then done. What could not be done is recorded as well."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from audit import AuditUnavailable, LedgerReceipt
from controlplane.calls import Principal
from controlplane.console.ports import Append, BreakerControl, ConsoleError, ModelControl

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

    async def hold(self, name: str, wish: Wish) -> LedgerReceipt:
        """Raises ``AuditUnavailable``: not recorded, therefore not done."""
        return await self.do({"what": "breaker.hold", "breaker": name}, wish, lambda: self._switch(name, held=True))

    async def release(self, name: str, wish: Wish) -> LedgerReceipt:
        return await self.do({"what": "breaker.release", "breaker": name}, wish, lambda: self._switch(name, held=False))

    async def move_label(self, model: str, label: str, version: int, wish: Wish) -> LedgerReceipt:
        """Raises also ``ChangeRefused`` and ``ChangeFailed``."""
        what = {"what": "model.label", "model": model, "label": label, "version": version}
        return await self.do(what, wish, lambda: self.models.move_label(model, label, version))

    async def load(self, model: str, version: int, wish: Wish) -> LedgerReceipt:
        what = {"what": "model.load", "model": model, "version": version}
        return await self.do(what, wish, lambda: self.models.load(model, version))

    async def unload(self, model: str, version: int, wish: Wish) -> LedgerReceipt:
        what = {"what": "model.unload", "model": model, "version": version}
        return await self.do(what, wish, lambda: self.models.unload(model, version))

    async def set_canary(self, model: str, version: int | None, percent: int, wish: Wish) -> LedgerReceipt:
        what = _share("model.canary", model, version, percent)
        return await self.do(what, wish, lambda: self.models.set_canary(model, version, percent))

    async def set_shadow(self, model: str, version: int | None, percent: int, wish: Wish) -> LedgerReceipt:
        what = _share("model.shadow", model, version, percent)
        return await self.do(what, wish, lambda: self.models.set_shadow(model, version, percent))

    async def roll_back(self, model: str, wish: Wish) -> LedgerReceipt:
        """The record says where to, so it is done only if that is still the way back."""
        version = self.models.previous(model)
        what = {"what": "model.rollback", "model": model, "version": version}
        return await self.do(what, wish, lambda: self.models.roll_back(model, version))

    async def release_version(self, model: str, version: int, wish: Wish) -> LedgerReceipt:
        """Recorded among the model's moves, which are what holds are read back from after a restart."""
        return await self.models.release(model, version, wish.by, wish.reason, wish.key)

    async def _switch(self, name: str, *, held: bool) -> None:
        switch = self.breakers.hold if held else self.breakers.release
        switch(name, HOLD)

    async def do(self, what: Mapping[str, Any], wish: Wish, act: Callable[[], Awaitable[None]]) -> LedgerReceipt:
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

    async def _note_failure(self, receipt: LedgerReceipt, error: ConsoleError) -> None:
        body = {"change": {"failed": receipt.event_id, "error": error.reason}}
        try:
            await self.append(CHANGE_FAILED, body)
        except AuditUnavailable:
            log.exception("a failed change could not be recorded as failed", extra={"change": receipt.event_id})


def _share(what: str, model: str, version: int | None, percent: int) -> Mapping[str, Any]:
    said: dict[str, Any] = {"what": what, "model": model, "percent": percent}
    return said if version is None else said | {"version": version}
