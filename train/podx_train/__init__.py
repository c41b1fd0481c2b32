"""Training half of podx: datasets, the POD model, the training loop, checkpoints, eager generation."""
