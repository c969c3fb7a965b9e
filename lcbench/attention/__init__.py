"""The attention engine: computes any list of pieces on any model with rotary position embedding."""
