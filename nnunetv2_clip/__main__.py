"""python -m nnunetv2_clip"""

import sys

from nnunetv2_clip.cli import main

if __name__ == "__main__":
    sys.exit(main())
