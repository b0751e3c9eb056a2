"""What a linear map between encoders lets an attacker do: measurements on one's own systems."""
