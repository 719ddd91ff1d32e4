"""Adversaries in training, and the five ways to train beside one: each wraps any method."""
