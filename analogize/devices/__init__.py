"""The physics of memory devices and crossbar tiles: pure functions on tensors.

Enters: weights or conductances, a target's models, a generator. Leaves: what devices make of them.
May use: targets, and the ground (product, quantize, errors).

conductance.py   weights <-> differential pairs of conductances
curves.py        the forms in which figures are published, as functions of a conductance
programming.py   programming noise, relaxation, variation, stuck devices
drift.py         drift over time and 1/f read noise
temperature.py   thermally activated conduction
correlated.py    what neighbouring devices have in common
reading.py       noise drawn anew at every product
signals.py       what drivers, columns and converters make of their signals
custom.py        functions of the user's own, and what they are told
compensation.py  digital correction of drift
layout.py        where the weights of an array lie on tiles
wires.py         IR drop, to first order or solved (nodal.py)
placing.py       the weights of an array as matrices of its tiles, and back
cells.py         a target's models applied to the cells of one array, in order
random.py        where a chip's random numbers come from
times.py         "1 day" in seconds
"""
