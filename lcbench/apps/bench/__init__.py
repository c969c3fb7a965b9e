"""`lcbench bench`: what a method costs compared with vanilla attention, measured in one run on one machine."""
