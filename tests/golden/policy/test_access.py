"""Who may do what under the shipped policies, as one table that a change of policy must change on purpose.

Rewrite it with ``REWRITE_GOLDEN=1 python -m pytest tests/golden/policy`` and read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from controlplane.calls import Principal
from controlplane.policy import BundlePolicy
from controlplane.policy.bundle import build, read_files
from controlplane.policy.rules import ACTIONS

SHIPPED = Path(__file__).parents[3] / "policies"
TABLE = Path(__file__).parent / "access.txt"
API = ("calls", "breakers", "models", "ledger", "policy", "observations", "outcomes", "approvals", "console")


def lines(policy: BundlePolicy) -> Iterator[str]:
    """One line for each principal and resource with a right: the actions that some arguments would allow."""
    bundle = policy.bundle
    assert bundle is not None
    resources = ("/model", *sorted(bundle.catalogue.resources), *(f"/api/{area}" for area in API))
    for tenant, name in sorted(bundle.directory.holds):
        principal = Principal(subject=name, tenant=tenant)
        for resource in resources:
            allowed = [action for action in ACTIONS if policy.could_permit(principal, action, resource)]
            if allowed:
                yield f"{tenant:8}{name:18}{resource:28}{' '.join(allowed)}"


def test_access_under_the_shipped_policies_is_the_reviewed_table() -> None:
    table = "\n".join(lines(BundlePolicy.serving(build(read_files(SHIPPED))))) + "\n"
    if os.environ.get("REWRITE_GOLDEN"):
        TABLE.write_text(table)
    assert table == TABLE.read_text()
