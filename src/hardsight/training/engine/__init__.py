"""The training engine: batches, steps, checkpoints, processes; it does not depend on the method."""
