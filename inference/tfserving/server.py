"""The embedded model server: TF Serving's gRPC wire over SavedModels that numpy can run.

    python -m inference.tfserving.server --model risk=models/risk --port 8500

For one machine and small models. It speaks to the same clients as ``tensorflow_model_server`` and can be replaced by it
without changing a byte on either side; it has no batching and no REST port. Models that numpy cannot run are refused
when they are loaded; ``--runtime tensorflow`` runs them where TensorFlow is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import grpc
from pydantic import ValidationError

from inference.savedmodel import tensorflow_runtime
from inference.savedmodel.reader import load
from inference.tfserving import wire
from inference.tfserving.answers import answer
from inference.tfserving.servables import Runtime, Servables, ServingError
from inference.tfserving.settings import EmbeddedServerSettings

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
CODES = {code.value[0]: code for code in grpc.StatusCode}
GRACE_S = 2.0


class EmbeddedServer:
    """``start`` binds, loads and serves; ``stop`` lets running calls finish."""

    def __init__(self, settings: EmbeddedServerSettings, servables: Servables) -> None:
        self.settings, self.servables = settings, servables
        self.port = 0
        self._server: Any = None
        self._in_threads = settings.runtime != "numpy"  # numpy answers sooner than a thread is woken
        self._changing = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises ``RuntimeError`` when the address cannot be bound."""
        limit = self.settings.max_message_bytes
        options = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not take half of the calls
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))
        self.port = self._server.add_insecure_port(f"{self.settings.host}:{self.settings.port}")
        await self._server.start()
        self._watcher = asyncio.get_running_loop().create_task(self._watch_files())

    async def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        await self._server.stop(GRACE_S)

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(self.settings.poll_s)
            try:
                async with self._changing:
                    await self._run(self.servables.refresh)
            except Exception:
                log.exception("looking for new versions failed; what is loaded stays")

    def _handlers(self) -> list[Any]:
        services: dict[str, dict[str, Any]] = {}
        for method in wire.METHODS.values():
            handler: Any = grpc.unary_unary_rpc_method_handler(self._handler(method))
            services.setdefault(method.service, {})[method.name] = handler
        return [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]

    def _handler(self, method: wire.Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        turn = self._changing if method.name == wire.RELOAD else nullcontext()

        async def handle(body: bytes, context: Any) -> bytes:
            try:
                async with turn:
                    return await self._run(answer, self.servables, method, body)
            except ServingError as error:
                await context.abort(CODES[error.code], wire.told(error.detail))
                raise

        return handle

    async def _run(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(act, *args, **kwargs) if self._in_threads else act(*args, **kwargs)


def runtime_of(settings: EmbeddedServerSettings) -> Runtime:
    """Raises ``TensorFlowMissing`` at once rather than at the first model."""
    if settings.runtime == "numpy":
        return load
    tensorflow_runtime.tensorflow()
    return tensorflow_runtime.load


async def serve(settings: EmbeddedServerSettings) -> None:
    """Serve until SIGTERM or SIGINT. Prints ``ready HOST:PORT`` once calls are answered."""
    servables = Servables(runtime_of(settings))
    servables.serve_latest(settings.all_models())
    server = EmbeddedServer(settings, servables)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    await server.start()
    print(f"ready {settings.host}:{server.port}", flush=True)  # noqa: T201  whoever started us waits for this line
    await stopped.wait()
    await server.stop()


def settings_from(arguments: Sequence[str] | None = None) -> EmbeddedServerSettings:
    parser = argparse.ArgumentParser(prog="python -m inference.tfserving.server", description=__doc__)
    parser.add_argument("--base", type=Path, help="serve every folder in here that holds versions")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=DIR", help="serve this model too")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8500, help="0 takes a free port")
    parser.add_argument("--poll-s", type=float, default=1.0, help="how often to look for new versions, seconds")
    parser.add_argument("--runtime", choices=("numpy", "tensorflow"), default="numpy", help="what runs the models")
    given = parser.parse_args(arguments)
    models = dict(pair.split("=", 1) for pair in given.model if "=" in pair)
    if len(models) != len(given.model):
        parser.error("--model takes NAME=DIR, each name once")
    chosen = {name: getattr(given, name) for name in ("base", "host", "port", "poll_s", "runtime")}
    try:
        return EmbeddedServerSettings(models=models, **chosen)
    except ValidationError as error:
        parser.error("; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()))


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    try:
        asyncio.run(serve(settings_from()))
    except tensorflow_runtime.TensorFlowMissing as error:
        raise SystemExit(str(error)) from None
    except RuntimeError as error:
        if "Failed to bind" not in str(error):  # all that gRPC says
            raise
        raise SystemExit(str(error).partition(";")[0]) from None


if __name__ == "__main__":
    main()
