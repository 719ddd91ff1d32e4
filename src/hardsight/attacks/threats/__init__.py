"""What an attacker may do: one threat a file, each of them a geometry (see `base`)."""
