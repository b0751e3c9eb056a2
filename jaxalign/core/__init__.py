"""What every room stands on: errors, checks, number formats, rows that are read lazily, people, devices."""
