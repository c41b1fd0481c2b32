"""Benchmarks: latency and accuracy of every engine on the same work."""
