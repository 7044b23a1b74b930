"""The demonstration, and the data sets and networks that it shares with recipes and command line.

Enters: a data set. Leaves: a trained network, its table and plot over chips.
May use: report, training, evaluation and what those may use.
"""
