"""PyTorch backend."""

import os
import sys

# GNU OpenMP's threads spin between two parallel regions. With one other busy process on a two-core machine each
# region then waits for a whole time slice: training falls from 3,400 to under 150 tokens a second. Spinning briefly
# and then sleeping costs nothing measurable on an idle machine (3,440 tokens a second) and keeps 1,800 on a busy one.
# The variable must be set before libgomp is loaded; a policy that the user has set is kept.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
