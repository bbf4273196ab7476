"""How many calls a model server gets at once, and who waits for whom when it has enough.

Below the limit nobody waits. Above it calls stand in a line: the most urgent first, agents of one priority in turn.
Who cannot be served in time is told at once, with an honest time to come back. Fails towards the caller: a shed call
reached nobody, and says so. Whoever watches (metrics) may fail without hurting a call.
"""

from controlplane.admission.gate import Gate, GateStatus
from controlplane.admission.gates import Gates
from controlplane.admission.queued import QueuedBackend
from controlplane.admission.settings import AdmissionSettings

__all__ = ["AdmissionSettings", "Gate", "GateStatus", "Gates", "QueuedBackend"]
