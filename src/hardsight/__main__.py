"""`python -m hardsight` is the same as the command `hardsight`."""

from hardsight.cli import main

if __name__ == "__main__":
    main()
