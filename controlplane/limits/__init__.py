"""How much is too much: calls per window. Pure arithmetic over a clock that is passed in; keeps its counts in memory.

Fails closed: when no more counters can be kept, whoever has none yet is refused.
"""

from controlplane.limits.settings import LimitSettings
from controlplane.limits.windows import Rate, RateLimit

__all__ = ["LimitSettings", "Rate", "RateLimit"]
