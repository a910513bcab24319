"""Supervised fine-tuning on the chosen answers, their tokens scored: clew, TRL, TRL with its best flags.

CLEW_DATA=... python benchmarks/sft.py --shape small --rounds 5   # other options: race.py
"""

import race

if __name__ == "__main__":
    race.main(__doc__, ["sft"])
