"""What playbooks see and what they can do, in terms of the fleet."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import anyio

from controlplane.fleet import Fleet
from controlplane.playbook_settings import Deed, Playbook
from controlplane.playbooks import DeedFailed, Fault, Perform
from controlplane.resilience.breaker import State
from controlplane.resilience.breakers import breaker_name, target_in
from inference.errors import BackendError
from inference.tfserving.deployment import Deployment, DeploymentError
from inference.tfserving.served import CANARY, STABLE

HOLD_REASON = "playbook"


@dataclass(frozen=True, slots=True)
class FleetDeeds:
    fleet: Fleet

    def faults(self) -> Iterator[Fault]:
        for each in self.fleet.breakers.snapshot():
            if each.state is State.OPEN:
                model = target_in(each.name)
                yield Fault("canary_open" if each.name == self._canary(model) else "breaker_open", model, each.name)
        for backend, deployment in self.fleet.deployments.items():
            for status in deployment.replica_statuses():
                if not any(status.available.values()):
                    for model in deployment.models:
                        yield Fault("replica_away", model, f"{backend}/{status.name}")

    def table(self) -> Mapping[Deed, Perform]:
        return {"restart": run_command, "scale": run_command, "switch": self.switch, "roll_back": self.roll_back}

    async def switch(self, book: Playbook, fault: Fault) -> None:  # noqa: ARG002  the shape of every deed
        """The fallback answers until an operator releases the breaker's hold."""
        self.fleet.breakers.hold(fault.subject, HOLD_REASON)

    async def roll_back(self, book: Playbook, fault: Fault) -> None:
        deployment = self._deployment(book.model)
        served = deployment.served(book.model)
        try:
            if served is not None and served.canary_percent:
                await deployment.set_canary(book.model, None, 0)
            elif served is not None and fault.subject == breaker_name(book.model, served.labels.get(STABLE)):
                await deployment.roll_back(book.model)  # asked again, another version is stable, and it is let be
        except (BackendError, DeploymentError) as error:
            raise DeedFailed(error.reason, error.detail) from error
        await self.fleet.learn(book.model)

    def _canary(self, model: str) -> str:
        deployment = self.fleet.deployment_of(model)
        served = None if deployment is None else deployment.served(model)
        if served is None or not served.canary_percent:
            return ""
        return breaker_name(model, served.labels.get(CANARY))

    def _deployment(self, model: str) -> Deployment:
        deployment = self.fleet.deployment_of(model)
        if deployment is None:
            raise DeedFailed("unknown_model", f"{model} is not deployed through this gateway")
        return deployment


async def run_command(book: Playbook, fault: Fault) -> None:
    """The operator's own program, without a shell, in a session of its own; killed whole when it takes too long.

    Raises:
        DeedFailed: ``command_failed`` or ``command_timeout``.
    """
    places = {"{model}": book.model, "{subject}": fault.subject}
    command = [places.get(word, word) for word in book.command]
    try:
        with anyio.fail_after(book.timeout_s):
            process = await anyio.open_process(
                command, stdin=subprocess.DEVNULL, stdout=None, stderr=None, start_new_session=True
            )
            try:
                code = await process.wait()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    except TimeoutError:
        raise DeedFailed("command_timeout", f"{command[0]} took longer than {book.timeout_s:g} s") from None
    except OSError as error:
        raise DeedFailed("command_failed", str(error)) from error
    if code:
        raise DeedFailed("command_failed", f"{command[0]} ended with {code}")
