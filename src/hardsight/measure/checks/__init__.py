"""What can be wrong with a robustness number: (Case) -> Finding, one question a check; families by what they look at."""
