"""Hardening: an encoder that is trained already is made robust, held near to itself as it came. One method a file."""
