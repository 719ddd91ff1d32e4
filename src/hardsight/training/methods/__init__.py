"""Training methods: one file per method; wrappers around any method in `robust/`, hardening in `harden/`."""
