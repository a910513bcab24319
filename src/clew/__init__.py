"""clew: improve generative models with feedback, from labels to a model proven better.

Importing this package loads neither torch nor transformers; `clew.recipes` and below do.
"""

import time

__version__ = "0.1.0"
IMPORTED = time.perf_counter()
"""When: a command imports this first, so that a run can say how long its first step was in coming."""
