"""Changing the catalog of a bundle."""
