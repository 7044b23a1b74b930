"""How results show themselves: text as wide as the terminal, HTML for notebooks, CSV, data frames.

Enters: rows. Leaves: text.
May use: nothing of analogize.
"""
