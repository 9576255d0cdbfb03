"""What the product costs next to the bare engine, as ratios measured in one run. See README.md."""
