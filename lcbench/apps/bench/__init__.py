"""`lcbench bench`: what a method costs beside vanilla attention, measured in one run on one machine."""
