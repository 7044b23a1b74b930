"""The analog operator: one product with stored weights, as converters and arrays compute it.

Enters: an operator's input and weight. Leaves: what DAC, crossbar and ADC make of them, on fresh
noise or on a programmed chip. Here are chips (program, erase), noise modes and ranges as well.
May use: model, devices, targets, and the ground (product, quantize, errors).
"""
