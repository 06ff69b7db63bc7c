"""Fused twins of the plain march, one module per device; `renderers.paths` chooses among them."""
