"""Training: the reference models from a seed, and any Llama-type model with long-context methods."""
