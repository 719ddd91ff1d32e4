"""Downstream tasks, one per file: the head, the training loss, the per-image error and the counts behind the metrics."""
