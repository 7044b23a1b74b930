"""How good a rewritten model is over many simulated chips, now and later.

Enters: a rewritten model, data, noise levels, times. Leaves: an ``Evaluation``: a metric a chip,
with intervals, that resumes after interruption and draws itself. A result knows its plot, a plot
knows no result.
May use: api, capture, crossbar, model, devices, targets, and the ground.
"""
