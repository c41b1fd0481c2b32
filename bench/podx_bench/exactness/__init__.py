"""How often an answer is proven to be the model's best, and what that costs."""
