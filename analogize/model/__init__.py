"""What is known of any ``nn.Module``, rewritten or not: calls, copies, names, products, shards.

Enters: a module and an example call. Leaves: a census of its products with stored weights, where
its weights are and how they are computed, copies of it, its parameters shared out over processes.
May use: errors.
"""
