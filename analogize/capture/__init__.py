"""Front ends: from any nn.Module to a rewritten one; choose.py picks among them.

Enters: a model, a target, an example call. Leaves: the rewritten model, with a report of what
stayed digital and of the front ends that declined.
May use: passes, crossbar, model, targets, and the ground.

capture.py     the whole model as one torch.fx graph; tracing.py what a graph would lose
pipeline.py    runs the passes over it
kept.py        the model's Python kept: leaf.py its stock modules, discover.py and intercept.py
               weights that Python uses directly
watched.py     weights of layers, read where no example showed it; first_call.py those that take
               another way; frozen.py what a graph holds as it was
composites.py  operators made of products, recurrent.py those over time; functional.py calls as
               products
"""
