"""Why a noisy network errs, and what to do about it.

Enters: a rewritten model and data. Leaves: bias and variance, mutual information, the cost of each
region's noise, and an assignment of regions to digital. ``analogize.analyze`` is its door.
May use: evaluation and what that may use; neither training nor onnx.
"""
