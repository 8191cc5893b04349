"""`python -m sparsedit`, where the script is not on the path."""

from sparsedit.cli import main

if __name__ == "__main__":
    main()
