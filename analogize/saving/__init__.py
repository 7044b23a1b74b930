"""A rewritten model in one file, and back: ``store.save`` and ``restore.load`` are the doors.

Enters: a rewritten model (or one that contains analog parts), or a file and a fresh digital model.
Leaves: a safetensors file whose metadata hold the manifest, or the model as it was saved, bit for
bit; and, by digital.py, the digital model that a rewritten one came from.
May use: api, capture, crossbar, model, devices, targets, and the ground.

manifest.py    what a file says beside its tensors: targets, front ends, regions, the chip
container.py   the file itself: written whole or not at all, read with named errors
drafts.py      where any file is written before it has its name, and what killed writers left
"""
