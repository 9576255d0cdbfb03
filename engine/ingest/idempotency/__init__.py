"""Recognizes repeated appends by their idempotency keys. The receipts are shared by all `ingest` threads."""
