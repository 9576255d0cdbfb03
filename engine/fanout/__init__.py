"""Delivers the rows of landing datasources to the nests of their tenants, and keeps failing views from stopping
inserts.

An `ingest` thread calls `insert_to_all`, which inserts a batch into landing and through its views, and suspends a
view that keeps failing (`suspended_views`). For a routed datasource, it then hands the batch to
`router.Router.committed`. The thread of the datasource, `worker.FanoutWorker.run`, delivers it to the tenants in sync
(`main_delivery`) and then to lagging ones (`catch_up`); both insert by `nest_writer`, with a pool that all workers
share.

`uncertain_batches` and `merge_watch` have background threads of their own. `modes`, `startup_recovery`,
`view_repairs` and `expiring` run in the thread of the push, of the change to tenants, or of the start.
"""
