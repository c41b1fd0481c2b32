"""Ids and templates as tokens."""
