"""What each way in which a call can end teaches about the backend. The one table of it: a new reason is a new line.

Nothing is learnt where the backend did what it should (it refused a wrong request, it set a limit), where nobody asked
it, or where what went wrong is ours. A limit that passed may have been the caller's own: see ``Verdict.LATE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from inference.backend import CLIENT_ERRORS, SERVER_ERRORS
from inference.errors import BackendError, BackendRejected


class Verdict(StrEnum):
    """What a call taught us about the backend."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # 5xx, broken answer
    UNREACHABLE = "unreachable"  # no connection: a failure that needs no statistics
    SILENT = "silent"  # no first token within our limit: a failure
    STALLED = "stalled"  # tokens stopped coming for longer than our limit: a failure
    LATE = "late"  # a deadline passed: a failure if it was as long as a slow call, else the caller's impatience
    ABANDONED = "abandoned"  # the caller left first: a slow call if he had waited that long, else nothing learnt
    TAUGHT_NOTHING = "taught_nothing"


SUCCEEDED, NOTHING, FAILED = Verdict.SUCCEEDED, Verdict.TAUGHT_NOTHING, Verdict.FAILED

LESSONS: Mapping[str, Verdict] = MappingProxyType(
    {
        # no connection
        "connect_failed": Verdict.UNREACHABLE,
        "connect_timeout": Verdict.UNREACHABLE,
        "dns_failed": Verdict.UNREACHABLE,
        "unavailable": Verdict.UNREACHABLE,  # gRPC
        "unreachable": Verdict.UNREACHABLE,  # tools and MCP servers
        # a limit passed: two of ours, and then those that callers may shorten
        "first_byte_timeout": Verdict.SILENT,
        "stalled": Verdict.STALLED,
        "deadline": Verdict.LATE,
        "deadline_exceeded": Verdict.LATE,
        "timeout": Verdict.LATE,
        # it answered nonsense, or not to the end
        "cut": FAILED,
        "disconnected": FAILED,
        "error_event": FAILED,
        "hung_up": FAILED,
        "invalid_answer": FAILED,
        "redirect_refused": FAILED,
        "truncated": FAILED,
        "untranslatable": FAILED,
        # it failed, as gRPC says it; HTTP's are upstream_500 and so on, and fail by their family
        "aborted": FAILED,
        "data_loss": FAILED,
        "internal": FAILED,
        "unknown": FAILED,
        # it set a limit; waiting and admission answer that, not a breaker
        "busy": NOTHING,
        "rate_limited": NOTHING,
        "resource_exhausted": NOTHING,
        # nobody asked it
        "breaker_held": NOTHING,
        "breaker_open": NOTHING,
        "closed": NOTHING,
        "no_replica": NOTHING,
        "not_deployed": NOTHING,
        "overloaded": NOTHING,
        "rows_out_of_range": NOTHING,
        "server_down": NOTHING,
        # what lacks is our own credential
        "credential_missing": NOTHING,
        "credential_refused": NOTHING,
        "credential_unavailable": NOTHING,
        "permission_denied": NOTHING,
        "unauthenticated": NOTHING,
        # how much is asked for is the caller's choice
        "cancelled": NOTHING,
        "event_too_long": NOTHING,
        "reply_too_large": NOTHING,
    }
)


def verdict_of(error: BackendError) -> Verdict:
    """A reason that the table lacks is a failure, unless the backend says that the request is wrong."""
    if isinstance(error, BackendRejected):
        return NOTHING
    return LESSONS.get(error.reason, FAILED)


def verdict_of_status(status: int) -> Verdict:
    """A 4xx is about the request: it neither proves the backend sick nor well."""
    if status < CLIENT_ERRORS:
        return SUCCEEDED
    return NOTHING if status < SERVER_ERRORS else FAILED
