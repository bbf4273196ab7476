"""How the running system adapts, by rules that are data (``policies/adaptation.yaml``).

Signals in, transitions out: a throttle, a lighter model, a replica left alone. Every transition is recorded before it
is done; what cannot be recorded is not done. A signal that nobody can read moves nothing. Whoever listens (metrics,
console) may fail without hurting anything.
"""
