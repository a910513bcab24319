"""Sampling eight answers for each of eight prompts: clew's engine, transformers' generate, its static cache.

CLEW_DATA=... python benchmarks/generate.py --shape small --rounds 5   # other options: race.py
"""

import race

if __name__ == "__main__":
    race.main(__doc__, ["generate"])
