"""`lcbench explain`: where a model looks for the needle under each method, and where the right answer gets lost."""
