"""Raw requests in, checked numbers and tokens out."""
