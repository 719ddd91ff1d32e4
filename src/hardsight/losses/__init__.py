"""What an attack raises: (output, target, progress) -> [B], greater is worse for the model; one family a file."""
