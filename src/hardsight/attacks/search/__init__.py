"""How an attack searches: (objective, x, threat, rng, start) -> AttackResult; one search per file, combined in `compose`."""
