"""Text of generated tasks: made-up books, repeated filler, running text, words."""
