"""Who is calling: a bearer credential becomes a ``Principal``, or nothing happens.

Fails closed: keys that are stale, a revocation list that cannot be read and a claim that is missing all refuse.
Knows no HTTP server, no policy and no ledger; the only thing it ever fetches is the issuer's key set.
"""

from controlplane.identity.errors import IdentityError, IdentityUnavailable, Unauthenticated
from controlplane.identity.identity import TokenIdentity
from controlplane.identity.settings import IdentitySettings

__all__ = ["IdentityError", "IdentitySettings", "IdentityUnavailable", "TokenIdentity", "Unauthenticated"]
