"""What an agent's own traffic says: rate against its own habit, forbidden sequences, loops, unlike questions.

The rules stand in the policy bundle (`behaviour.yaml`). ``Behaving`` goes around the gateway's policy and may only turn
an allow into a deny; ``Remembering`` goes around its recorder, so that a verdict is in the ledger before it takes
effect. Fails closed where a rule refuses; what is merely learnt (rates, likeness) begins anew when it is lost.
"""

from controlplane.behaviour.behaving import Behaving, Remembering
from controlplane.behaviour.keeper import Keeper
from controlplane.behaviour.oversight import Oversight
from controlplane.behaviour.settings import BehaviourSettings
from controlplane.behaviour.verdicts import KIND, Finding, Verdict
from controlplane.behaviour.watch import Watch

__all__ = ["KIND", "Behaving", "BehaviourSettings", "Finding", "Keeper", "Oversight", "Remembering", "Verdict", "Watch"]
