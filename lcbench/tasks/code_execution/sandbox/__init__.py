"""The processes that are started for one program; only the standard library is imported, and only what starts fast.

`supervisor` watches, `program` is what it forks, `system` are the system calls that Python lacks. They import each
other by relative names: they are started without the rest of the package, which takes longer to import than most
programs run.
"""
