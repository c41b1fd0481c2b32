"""Accuracy: models, peers and rows that learn nothing, scored the same way and kept measurement by measurement."""
