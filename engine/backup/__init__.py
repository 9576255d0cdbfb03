"""Backups: of the embedded engine as a file, and of a ClickHouse server by its BACKUP and RESTORE statements."""
