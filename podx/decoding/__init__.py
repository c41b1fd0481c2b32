"""Beam search over the decoder graph.

options   what a search may be asked to do
stepper   the one thing a search needs from a model: scores of the next token
paths     which cache slots lie on each live beam's path
select    top candidates per user
item_filter  which items a request may be answered with
items     search inside the catalog's trie
text      search over the whole vocabulary, with groups
"""
