"""Beam search by transformers, the oracle of the graphs."""
