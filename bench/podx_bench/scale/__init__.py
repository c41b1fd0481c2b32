"""What the size of a catalog costs: building, disk, loading, memory, and time of a decoding step."""
