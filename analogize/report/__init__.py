"""What became of a model, for people: the summary, a drawing, costs, one HTML page.

Enters: a rewritten model, and results of evaluation and analysis. Leaves: text, SVG, HTML.
May use: analysis, evaluation and what those may use.
"""
