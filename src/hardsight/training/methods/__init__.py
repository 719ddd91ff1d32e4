"""How encoders are trained: one method a file; wrappers around any method in `robust/`, hardening in `harden/`."""
