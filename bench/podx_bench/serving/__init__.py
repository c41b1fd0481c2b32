"""``podx serve`` under load, beyond its capacity, while bundles change, at its end, and given nonsense: campaigns."""
