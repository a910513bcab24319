"""DPO: clew with its reference remembered, TRL as it comes, and with its best flags.

CLEW_DATA=... python benchmarks/dpo.py --shape small --rounds 5   # other options: race.py
"""

import race

if __name__ == "__main__":
    race.main(__doc__, ["dpo"])
