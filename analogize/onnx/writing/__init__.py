"""From a rewritten model to annotated ONNX; ``export.export_onnx`` is the door.

plan.py           what each region needs in the file: weights, noise, bounds; storage.py their type
describe.py       a planned region as an entry of the manifest
trace.py          torch -> ONNX with one placeholder node for every analog call
emit.py           one analog call as standard ONNX operators: stages.py its DAC, product and ADC,
                  tile_sums.py tiles that convert their own sums, runtime_noise.py and draws.py
                  noise at run time, body.py the nodes while they are made
assemble.py       placeholders -> standard operators or calls of functions; names and metadata
exact.py          which outputs equal torch's bit for bit, and why not
write.py          files that appear whole or not at all; external data
"""
