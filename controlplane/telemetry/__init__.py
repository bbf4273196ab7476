"""What may be lost: metrics, traces and logs. Knows no other room; plain values come in. Fails open, always.

``Metrics`` holds every metric, ``Tracing`` places calls in traces and hands over the spans of those that are kept,
``configure_logging`` makes every log line one JSON object. The ledger, not this, is the record.
"""
