"""What an attack maximizes: (output, target, progress) -> [B], higher is worse for the model; one family per file."""
