"""TensorFlow Serving: its wire without TensorFlow, a backend, an embedded server, and who serves which version.

Nothing in this package imports tensorflow. The wire is described in ``schema.py`` and lives in a descriptor pool of its
own, so that it can share a process with the official stubs.
"""
