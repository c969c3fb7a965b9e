"""Other users of the engine: training, benchmarking, `ask`, the lm-evaluation-harness. None knows another."""
