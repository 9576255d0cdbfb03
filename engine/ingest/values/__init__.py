"""Decides how values are staged, validated and converted, as SQL over the columns of a stage.

Start with `staging.stage_of`, which stages each column by `staged_columns`; `wide_types` has the types, and
`fast_path` the fast checks. All functions are pure, and run in the `ingest` or `search` thread that has the batch.
"""
