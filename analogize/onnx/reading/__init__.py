"""From annotated ONNX back; ``read.read_regions`` and ``load.load_onnx`` are the doors.

read.py      regions of a file that other tools may have rewritten; decode.py their weights
load.py      a file as a runnable analog module: settings.py has its products and targets,
             kernels.py, shaping.py and windows.py its digital operators
"""
