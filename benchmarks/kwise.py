"""Reward model from rankings of four answers: clew's all_pairs, and all six pairs as pairs in TRL.

CLEW_DATA=... python benchmarks/kwise.py --shape small --rounds 5   # other options: race.py
"""

import race

if __name__ == "__main__":
    race.main(__doc__, ["kwise"])
