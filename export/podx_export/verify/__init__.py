"""Proof that the graphs answer like the model."""
