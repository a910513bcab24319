"""The parts of our PPO step (TRL has none any more): rollouts, reference, values, updates.

CLEW_DATA=... python benchmarks/ppo.py --shape small --rounds 5   # other options: race.py
"""

import race

if __name__ == "__main__":
    race.main(__doc__, ["ppo"])
