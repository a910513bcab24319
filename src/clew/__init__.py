"""clew: improve generative models with feedback, from labels to a model proven better.

Importing this package loads neither torch nor transformers; `clew.recipes` and below do.
"""

__version__ = "0.1.0"
