"""Pages that open from disk: the report of one or several runs, and the frame that every page of lcbench has."""
