"""Conversations of many turns, with a question about one of their messages (MRCR)."""
