"""`lcbench tune`: the options of a method that suit a model, a task and a length, found by successive halving."""
