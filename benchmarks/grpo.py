"""GRPO steps, generation included; and the learning alone on given rollouts, where losses can be compared.

CLEW_DATA=... python benchmarks/grpo.py --shape small --rounds 5   # other options: race.py
"""

import race

if __name__ == "__main__":
    race.main(__doc__, ["grpo", "grpo_given"])
