"""The database: an interface (`port.Warehouse`), its two adapters, the catalog, DDL and the registry.

Any thread may call an adapter, except the event loop, because calls block. This package knows neither pipes nor
tenants.
"""
