"""Second moments of the columns of several encoders: accumulated, merged, subtracted."""
