"""Files that appear whole or not at all.

Enters: a path. Leaves: the file, or an error that names it.
May use: errors.
"""
