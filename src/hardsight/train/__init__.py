"""The engine under the methods."""
