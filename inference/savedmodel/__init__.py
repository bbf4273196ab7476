"""Real TensorFlow SavedModels without TensorFlow: written from weights, read, and run with numpy.

What is written loads in TensorFlow and TF Serving. What is run is the small set of ops in ``runtime.py``; a model that
needs more is refused when it is loaded, never half executed.
"""

from inference.savedmodel.reader import SavedModelError, load
from inference.savedmodel.runtime import Model, UnsupportedModel
from inference.savedmodel.writer import export_mlp

__all__ = ["Model", "SavedModelError", "UnsupportedModel", "export_mlp", "load"]
