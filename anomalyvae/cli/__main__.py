"""``python -m anomalyvae.cli``."""

import sys

from anomalyvae.cli import main

sys.exit(main())
