"""Admitted model calls find who serves the model: catalogue entry → version → fallback ladder."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from controlplane.gateway.dispatch import request_for
from controlplane.gateway.gateway import Admission
from inference.backend import Backend, BackendReply
from inference.errors import BackendRejected

LIST = "/model"


class ModelDispatch:
    """``ladder_of`` gives the backend for a model by name, None for one that is in no catalogue or has no server."""

    def __init__(
        self, names: Callable[[], Collection[str]], ladder_of: Callable[[str], Backend | None], timeout_s: float
    ) -> None:
        self.names, self.ladder_of, self.timeout_s = names, ladder_of, timeout_s

    def send(self, admission: Admission) -> AbstractAsyncContextManager[BackendReply]:
        call = admission.call
        if call.resource == LIST:
            return _catalogue(sorted(self.names()))
        name = call.resource.removeprefix(LIST + "/")
        if call.operation == "model" and name in self.names():
            return _catalogue([name])
        ladder = self.ladder_of(name)
        if ladder is None:
            raise BackendRejected("not_found", f"no model {name} is served here")
        return ladder.send(request_for(admission, name, self.timeout_s))


@asynccontextmanager
async def _catalogue(names: Sequence[str]) -> AsyncGenerator[BackendReply]:
    """Names, one a line; the door leaves out what the caller may not call and finds the protocol's words."""

    async def lines() -> AsyncGenerator[bytes]:
        yield "\n".join(names).encode()

    yield BackendReply(200, (), lines(), served_by="catalogue")
