"""What one governed call costs, against its own parts and against another proxy: ``python -m benchmarks.gateway``."""
