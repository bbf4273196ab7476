"""The policy decision point. Fails closed: whatever goes wrong in here is a denial with its reason.

Knows no HTTP, no ledger and no model server. Files come from ``policies/``; see ``policy.py`` for the promise.
"""

from controlplane.policy.catalogue import Catalogue, ModelEntry, ToolEntry
from controlplane.policy.policy import BundlePolicy, PolicyStatus
from controlplane.policy.settings import PolicySettings

__all__ = ["BundlePolicy", "Catalogue", "ModelEntry", "PolicySettings", "PolicyStatus", "ToolEntry"]
