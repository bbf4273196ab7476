"""The same question again is not paid for twice: a backend around a backend that gives saved answers.

Same input, same model version, same policy revision, same tenant; and only where a rule gives leave. What is saved and
under which key is decided in ``questions`` and ``answers`` (pure); ``memory`` and ``redis_store`` keep it.

Fails open: a store that breaks is a miss. Fails closed in one thing: what cannot be told apart is never saved.
"""

from controlplane.response_cache.cached import CachedBackend, Parts
from controlplane.response_cache.memory import MemoryStore
from controlplane.response_cache.settings import ResponseCacheSettings

__all__ = ["CachedBackend", "MemoryStore", "Parts", "ResponseCacheSettings"]
