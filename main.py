"""The front door: `python main.py` serves the page, `python main.py --help` tells the rest."""

import sys

from app.cli.run import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
