"""User embeddings and neighbours (PeaPOD)."""
