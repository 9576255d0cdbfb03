"""The overhead of rookery compared with the bare engine, as ratios measured in one run. See README.md."""
