"""The control plane: every call of an agent passes one gateway that decides, records, calls and observes."""
