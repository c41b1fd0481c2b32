"""``podx study``: sweeps that are trained, measured and drawn."""
