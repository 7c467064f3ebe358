"""How much is tried where more finds more: in the suite enough to find what is planted, in `make prove-properties` ten
times as much."""

import os

EFFORT = int(os.environ.get("EMU_EFFORT", "1"))
