"""Chips as files: npz, HDF5, or a folder with a CSV file a tile.

Enters: a ``Chip`` that ``read_chip`` read, or files of a laboratory. Leaves: files, or a ``Chip``
for ``program(model, chip)``. crossbar/chip_data.py has the layout of the arrays.
May use: crossbar, and the ground.
"""
