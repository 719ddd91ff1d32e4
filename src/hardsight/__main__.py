"""`python -m hardsight` is `hardsight`."""

from hardsight.cli import main

if __name__ == "__main__":
    main()
