"""Readers of published data sets, one per file; each is a factory `-> Data`."""
