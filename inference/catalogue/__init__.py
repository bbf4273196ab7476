"""What is known of a model before it is asked: its card. Says nothing about who serves it or who may call it."""

from inference.catalogue.card import Hardware, Latency, Measured, ModelCard

__all__ = ["Hardware", "Latency", "Measured", "ModelCard"]
