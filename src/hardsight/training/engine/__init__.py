"""The engine under the methods: batches, steps, checkpoints, processes; it knows no method."""
