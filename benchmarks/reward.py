"""Reward model from pairs: clew, TRL, TRL with its best flags.

CLEW_DATA=... python benchmarks/reward.py --shape small --rounds 5   # other options: race.py
"""

import race

if __name__ == "__main__":
    race.main(__doc__, ["reward"])
