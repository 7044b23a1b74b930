"""Retraining with noise and clipping, by distillation or without a teacher.

Enters: a rewritten model, its teacher, data. Leaves: the model trained, or its Lightning module.
May use: evaluation and what that may use; neither analysis nor onnx.
"""
