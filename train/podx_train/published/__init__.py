"""Checkpoints of POD's published code."""
