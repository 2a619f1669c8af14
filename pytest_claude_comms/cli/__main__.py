"""``python -m pytest_claude_comms.cli``, where no script of that name is installed."""

import sys

from . import main

sys.exit(main())
