"""How an attack moves: (objective, x, threat, rng, start) -> AttackResult; one search a file, combinators in `compose`."""
