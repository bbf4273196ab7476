"""How a model server is started: from a catalogue entry to a command line, an environment or Helm values."""

from inference.launch.launch import Launch, Lora
from inference.launch.vllm import Rendered, render

__all__ = ["Launch", "Lora", "Rendered", "render"]
