"""What conditions may know of a principal and of a call (the PIP of XACML)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.calls import Call, Principal
from controlplane.policy.bundle import Bundle

PRESENTED = frozenset({"kind", "chain", "client_id", "issuer", "scopes"})
"""What the credential says of a principal whatever the bundle knows; of all the rest the bundle has the last word."""


def known_attributes(bundle: Bundle, tenant: str, name: str) -> dict[str, Any]:
    """What the bundle alone says of one principal: the directory's attributes, its tenant and its roles there."""
    return {
        **bundle.directory.attributes.get((tenant, name), {}),
        "id": name,
        "kind": name.partition(":")[0],
        "tenant": tenant,
        "roles": bundle.directory.roles_of(tenant, name),
    }


def presented_attributes(
    known: Mapping[str, Any], claims: frozenset[str], principal: Principal, name: str
) -> dict[str, Any]:
    """``known`` and what the credential adds to it.

    The credential's claims (those in ``claims``) describe its subject, not the actors: an actor has what the directory
    says of it. Where both speak, the directory wins: it is reviewed, a claim is only signed.
    """
    if name == principal.subject:
        attributes = {key: value for key, value in principal.claims.items() if key in claims}
        attributes.update(known)
        attributes["kind"] = principal.kind
    else:
        attributes = dict(known)
    attributes["chain"] = principal.chain
    attributes["client_id"] = principal.client_id
    attributes["issuer"] = principal.issuer
    attributes["scopes"] = principal.scopes
    return attributes


def subject_attributes(bundle: Bundle, principal: Principal, name: str) -> dict[str, Any]:
    known = known_attributes(bundle, principal.tenant, name)
    return presented_attributes(known, bundle.schema.claims, principal, name)


def context_values(call: Call, now_s: float) -> dict[str, Any]:
    return {
        "args": call.arguments,
        "now": now_s,
        "door": call.door,
        "operation": call.operation,
        "version": call.version,
        "label": call.label,
        "streams": call.streams,
    }
