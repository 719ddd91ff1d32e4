"""Storage of results: atomic file writes, and one folder per cell; never imports torch.

In: rows and records. Out: the same, loaded again. Another storage layout belongs here.
"""
