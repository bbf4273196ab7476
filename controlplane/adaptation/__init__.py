"""How the running system adapts, by rules that are data (``policies/adaptation.yaml``).

Signals in, transitions out: a throttle, a lighter model, a replica left alone. Every transition is recorded before it
is done; what cannot be recorded is not done. A signal that nobody can read moves nothing. Whoever listens (metrics,
console) may fail without hurting anything.
"""

from controlplane.adaptation.actions import Act, Replicas, Runner, isolate, lighter_tier, restart, throttle
from controlplane.adaptation.adapted import Adapted, Tiers
from controlplane.adaptation.calls import ModelCalls
from controlplane.adaptation.loop import FAILED_KIND, KIND, Adaptation, AdaptationStatus, Transition
from controlplane.adaptation.machine import CpuMeter
from controlplane.adaptation.replicas import ReplicaSeen, ReplicaSignals
from controlplane.adaptation.settings import AdaptationSettings
from controlplane.adaptation.signals import GATEWAY, Source, Sources, Subject
from controlplane.adaptation.states import BreakerSeen, Chosen, breakers, drift, selection

__all__ = [
    "FAILED_KIND",
    "GATEWAY",
    "KIND",
    "Act",
    "Adaptation",
    "AdaptationSettings",
    "AdaptationStatus",
    "Adapted",
    "BreakerSeen",
    "Chosen",
    "CpuMeter",
    "ModelCalls",
    "ReplicaSeen",
    "ReplicaSignals",
    "Replicas",
    "Runner",
    "Source",
    "Sources",
    "Subject",
    "Tiers",
    "Transition",
    "breakers",
    "drift",
    "isolate",
    "lighter_tier",
    "restart",
    "selection",
    "throttle",
]
