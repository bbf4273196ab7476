"""Does a model still err as little as it did? Observations in, verdicts out.

What decides is pure (``edetector``, ``watch``, ``states``); ``store`` remembers, ``reporter`` explains. The gateway
takes ``ring`` and ``states`` from here and nothing else. Fails open: without this room calls go on as they are.
"""
