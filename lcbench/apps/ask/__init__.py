"""Questions about one document of any length: read it, ask the model, and show where in the document to look."""
