"""`python -m merpo`: the command line without its script."""

import sys

from merpo.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
