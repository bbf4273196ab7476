"""The command line; see ``controlplane --help``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from audit.commands import audit
from controlplane.approval_commands import approvals
from controlplane.cost.commands import costs
from controlplane.doctor import doctor
from controlplane.drift_commands import drift
from controlplane.identity.commands import token
from controlplane.model_commands import models
from controlplane.monitor import monitor_command
from controlplane.policy.commands import policy
from controlplane.settings_file import GATEWAY_CONFIG
from controlplane.vllm_commands import vllm
from controlplane.worker import worker_command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="agent-controlplane")
def main() -> None:
    """One authenticated, audited gateway in front of the tools and models that AI agents call.

    Start it with `gateway`, watch for drift with `monitor`, check its ledger with `audit verify`.
    """


@main.command()
@GATEWAY_CONFIG
def gateway(config: Path) -> None:
    """Serve all doors, the console and the operator API.

    Every setting stands in docs/SETTINGS.md; the environment beats the file, as in
    CONTROLPLANE_SERVER__HTTP_PORT=9000. SIGTERM lets running calls finish, a second one does not.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # we only ever fork to exec
    from controlplane.serve import CannotStart, serve  # noqa: PLC0415  the other commands need none of it
    from controlplane.settings import SettingsError, load  # noqa: PLC0415

    try:
        serve(load(config))
    except (SettingsError, CannotStart) as error:
        raise click.ClickException("\n".join(error.problems)) from error


for command in (approvals, audit, costs, doctor, drift, models, monitor_command, policy, token, vllm, worker_command):
    main.add_command(command)


if __name__ == "__main__":
    main()
