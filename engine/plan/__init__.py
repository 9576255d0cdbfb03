"""Plans changes to the database, and applies them while rows arrive.

`diff.diff` compares the desired schema with the live one and returns `steps.Plan`; `loss` and `coverage` decide what
happens to rows. `apply.apply` executes a plan: it creates views while `view_lock.ViewLock` holds inserts back,
records their backfills first (`backfill_records`), and delivers them afterwards (`backfill_delivery`). It runs in the
control thread of a push or of a change to tenants, and creates threads only for a single call.
"""
