"""The attention engine: any list of pieces on any rotary model."""
