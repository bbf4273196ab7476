"""Many servers as one backend: which replica is asked, which is left alone, and what is asked twice.

Decides by what replicas do, never by what their health endpoint says. A replica that cannot be seen (metrics, probes)
is used less, never given up: looking fails open, and every ejection ends in a probe. One layer of retries, and this is
it. Imports nothing of ours outside ``inference``.
"""

from inference.routing.health import State, Transition
from inference.routing.load import Load
from inference.routing.pool import ReplicaPool
from inference.routing.replica import LoadSource, Probe
from inference.routing.settings import RoutingSettings
from inference.routing.status import ReplicaStatus

__all__ = ["Load", "LoadSource", "Probe", "ReplicaPool", "ReplicaStatus", "RoutingSettings", "State", "Transition"]
