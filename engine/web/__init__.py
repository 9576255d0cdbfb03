"""The HTTP interface: routes, one module per resource, and the connections below them.

Routes run on the event loop. They read the request and start blocking work in threads: `query_response` runs queries
in request threads, and `control.in_thread` runs use cases of `engine.control` in control threads. Every request first
passes `access.Guarded`; appends go past the framework, to `events.Events`.
"""
