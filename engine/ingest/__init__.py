"""The write path: takes appends, stages and validates their rows, and commits them to datasources in batches.

`gateway.Gateway.submit` queues an append; the event loop calls it, and threads that send uploads or replayed rows. An
`ingest` thread forms a batch (`writer_queues`), decides which appends are stored together (`grouping`) and runs
`writer.BatchWriter.attempt` for each group: read the rows into a stage (`stage_reader`), validate them (`validity`),
record bad rows and receipts (`recording`), and insert the good rows (`commit`). If some rows are bad, a `search`
thread continues with `inspection`, `bisect` and `validation`.

`quarantine`, `replay` and `replace` also have functions for requests, which run in request and control threads. Only
`memory_budget` and `formats.compression` run on the event loop. `docs/INGESTION.md` explains the steps.
"""
