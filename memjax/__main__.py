"""`python -m memjax`."""

import sys

from memjax.cli.program import main

sys.exit(main())
