"""The POD model."""
