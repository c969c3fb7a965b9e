"""Models, prefill and decode, likelihoods, and their cost."""
