"""KTO on the answers of pairs: clew, TRL as it comes, and with its best flags.

CLEW_DATA=... python benchmarks/kto.py --shape small --rounds 5   # other options: race.py
"""

import race

if __name__ == "__main__":
    race.main(__doc__, ["kto"])
