"""Readers of published data sets, one a file; each is a factory `-> Data`."""
