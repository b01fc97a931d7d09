"""``python -m asr``: the command ``asr``, where its folder of scripts is not on the path."""

import sys

from asr.cli import main

if __name__ == "__main__":
    sys.exit(main())
