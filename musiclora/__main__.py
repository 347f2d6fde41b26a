"""`python -m musiclora`."""

from musiclora.cli import main

if __name__ == "__main__":
    main()
