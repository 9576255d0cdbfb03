"""The read path: what a token may read, the statement of a request, its run, and its limits.

Start with `executor.Queries`. It asks `authorize` for the scope, composes the statement, and returns a
`result.QueryResult` with the first bytes. All of this runs in a request thread; a stream thread reads the rest of a
long result. `reader_queue` runs on the event loop, before a request gets a thread. `running` and `limits` are called
by any thread.
"""
