"""The live workspace that all threads of a server share.

`workspace.Workspace` has the locks, and the current `snapshot.Snapshot`: an immutable value, which a request reads
once.
"""
