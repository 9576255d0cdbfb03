"""The engine of rookery: everything except the command line.

`docs/ARCHITECTURE.md` lists the packages and which may import which, and follows a push, a new tenant, a request and
an event through them. The docstring of each package says in which threads it runs.
"""
