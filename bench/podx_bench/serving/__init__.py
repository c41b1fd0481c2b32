"""A bundle in a service: throughput and latency against the number of clients that ask at the same time."""
