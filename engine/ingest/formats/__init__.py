"""Finds rows in the bytes of requests: compression, JSON, CSV and Parquet. Knows no ClickHouse types.

`compression` runs on the event loop, `parquet_process` in a process of its own, and the rest in the thread of the
upload or of the batch.
"""
