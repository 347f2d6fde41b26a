"""The torch backend."""

import os
import sys

# Between two parallel regions GNU OpenMP's threads spin; with one other busy process on a two-core machine each
# region then waits for a whole time slice, and training falls from 3,400 to under 150 tokens a second. Spinning a
# little and then sleeping costs nothing measurable on an idle machine (3,440 tokens a second) and keeps 1,800 on a
# busy one. It must be set before libgomp is loaded; who set a policy keeps it.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
