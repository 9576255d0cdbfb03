"""What the server tells its operator: log lines, the access log, and metrics."""
