"""Front ends: from any nn.Module to a rewritten one; choose.py picks among them."""
