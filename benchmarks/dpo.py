"""DPO: clew with its reference remembered, TRL as it comes, and with its best flags. Options: race.py."""

import race

if __name__ == "__main__":
    race.main(__doc__, ["dpo"])
