"""Redis, for what several gateways must know together. Whoever needs it is given a client; nobody imports this room."""

from controlplane.shared_state.settings import RedisSettings

__all__ = ["RedisSettings"]
