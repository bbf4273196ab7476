"""What stands between the gateway and a backend that fails: breaker, fallback ladder, deadline.

Fails towards the caller: a breaker that refuses says so and when to come back, and a fallback answer says that it is
one. Whoever listens to transitions (metrics, ledger, console) may fail without hurting a call.
"""
