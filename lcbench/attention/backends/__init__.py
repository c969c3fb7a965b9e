"""Backends that compute attention over pieces, each tested against the float64 reference."""
