"""Text that tasks are built of: made-up books, repeated filler, running text, words."""
