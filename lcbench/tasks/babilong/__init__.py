"""Facts hidden in books, and a question that needs one or several of them (BABILong)."""
