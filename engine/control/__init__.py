"""Use-cases that change what exists: push, tenants, tokens, materialize. No HTTP, no printing."""
