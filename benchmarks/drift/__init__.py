"""The drift detectors against their targets and against Evidently, river and NannyML, on the same rows."""
