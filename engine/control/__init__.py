"""Use cases that change the workspace: push, materialize, tenants, tokens, resources, and the doctor's repairs.

Each module is one use case or a step that several of them share. They are called by the HTTP routes in `engine/web`
and know nothing about HTTP; they return values and raise `RookeryError`. They run in the server's control threads. A
use case that changes the workspace holds `Workspace.changes` from start to end, so that two of them never run at the
same time in one process.
"""
