"""Annotated ONNX: what a file says about its analog regions, and how it is written and read.

Enters: a rewritten model, or a file. Leaves: a file, or its regions and a module that runs.
May use: evaluation's floor and below (capture, crossbar, model, devices, targets, the ground).

manifest.py  the manifest, source of truth of a file, and its JSON schema
writing/     from a model to a file
reading/     from a file to its regions and to a model
"""
