"""`python -m srbench`: works without installation."""

from srbench.cli import main

if __name__ == "__main__":
    main()
