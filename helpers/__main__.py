"""`python -m helpers`: the command line of the workbook."""

import sys

from helpers.cli import main

if __name__ == "__main__":
    sys.exit(main())
