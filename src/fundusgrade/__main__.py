"""`python -m fundusgrade`."""

from fundusgrade.commands.app import main

if __name__ == "__main__":
    main()
