"""`python -m bayes_htr`: the command line."""

import sys

from bayes_htr.cli import main

sys.exit(main())
