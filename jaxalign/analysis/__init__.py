"""What needs fitted maps and something else: geometry, stability, capacity, tuning, translation."""
