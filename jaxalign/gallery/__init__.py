"""Moving an enrolled gallery from an old encoder to a new one without its photographs."""
