"""Hardening: a pretrained encoder is made robust while it is kept close to its original. One file per method."""
