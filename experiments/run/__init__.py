"""What the commands share: flags, configuration, data, measuring, results."""
