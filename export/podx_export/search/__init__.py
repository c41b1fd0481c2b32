"""The constrained beam search as one graph."""
