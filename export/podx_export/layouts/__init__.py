"""What other stacks load: a folder for transformers and Optimum, a model repository for Triton."""
