"""Ways to compute attention over pieces, each held against the float64 reference."""
