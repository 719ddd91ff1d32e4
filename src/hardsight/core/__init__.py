"""Utilities for every subpackage: errors, seeds, nested tensor structures, the machine, progress bars, training position.

Imports nothing else of this package. A new file belongs here only if several subpackages need it.
"""
