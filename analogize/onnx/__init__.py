"""Annotated ONNX: what a file says about its analog regions, and how it is written and read.

manifest.py  the manifest, source of truth of a file, and its JSON schema
plan.py      what each region needs in the file: weights, noise, bounds
describe.py  a planned region as an entry of the manifest
trace.py     torch -> ONNX with one placeholder node for every analog call
emit.py      one analog call as standard ONNX operators: stages.py its DAC, product and ADC,
             tiled.py tiles that convert their own sums, noise.py and draws.py noise at run time,
             body.py the nodes while they are made
assemble.py  placeholders -> standard operators or calls of functions; names and metadata
exact.py     which outputs equal torch's bit for bit, and why not
write.py     files that appear whole or not at all; external data
read.py      regions of a file that other tools may have rewritten; decode.py their weights
load.py      a file as a runnable analog module: settings.py has its products and targets,
             operators.py, shaping.py and windows.py its digital operators
"""
