"""Adversaries in training, and the five wrappers that train any method with one."""
