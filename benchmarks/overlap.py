"""A step of rollouts and rewards, where the reward waits for others: asked at the end, or about each prompt at once.

    CLEW_DATA=... python benchmarks/overlap.py --shape small --rounds 5

The same 16 prompts, 4 samples each, by clew's engine in 16 slots; the two ways take turns. The judges are made up: they
only wait, 0.5 to 1.5 seconds a completion, by its text. "service" answers 16 requests at a time, whoever asks (an
async function); "in turn" is a plain function that asks about one completion after another, where per: group gains by
asking about 8 prompts at once as well. Scores are compared.
"""

import asyncio
import hashlib
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paired
import race
import torch
import world

from clew.engines.local import LocalEngine
from clew.judges.ahead import GroupWise, generate_and_score
from clew.judges.score import RewardFunction, function_reward
from clew.models.load import load_policy
from clew.types import Prompt, Reward, Sampling, Score

PROMPTS, SAMPLES, SLOTS, AT_ONCE, LIMIT = 16, 4, 16, 8, 16
SAMPLING = Sampling(max_tokens=128)
_limit = asyncio.Semaphore(LIMIT)


def wait_of(completion: str) -> float:
    """Seconds a judge takes for it."""
    return 0.5 + hashlib.sha256(completion.encode()).digest()[0] / 255


def worth(completion: str) -> float:
    return float(len(completion.split()))


async def service(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    async def ask(completion: str) -> float:
        async with _limit:
            await asyncio.sleep(wait_of(completion))
        return worth(completion)

    return await asyncio.gather(*map(ask, completions))


def in_turn(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    for completion in completions:
        time.sleep(wait_of(completion) / 4)
    return [worth(completion) for completion in completions]


JUDGES: dict[str, RewardFunction] = {"service": service, "in turn": in_turn}


def prompts_of(folder: Path) -> list[Prompt]:
    rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()[:PROMPTS]]
    return [Prompt(str(i), row["prompt_ids"], row["prompt"]) for i, row in enumerate(rows)]


def compare(engine: LocalEngine, prompts: Sequence[Prompt], judge: RewardFunction, rounds: int) -> dict[str, Any]:
    """Seconds of both ways and of sampling alone, in turns, after one round of warming up."""
    plain = function_reward(judge)
    ways: dict[str, Reward] = {"batch": plain, "group": GroupWise(plain, AT_ONCE), "sampling alone": nothing}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        scores: dict[str, list[Score]] = {}
        for name, reward in ways.items():
            began = time.perf_counter()
            _, scores[name] = generate_and_score(engine, reward, prompts, n=SAMPLES, sampling=SAMPLING, key=(0, number))
            seconds[name].append(round(time.perf_counter() - began, 3))
        assert scores["batch"] == scores["group"], "both ways give the same scores"
    found = {name: values[1:] for name, values in seconds.items()}
    ratios = [round(a / b, 3) for a, b in zip(found["batch"], found["group"], strict=True)]
    medians = {f"median {name}": statistics.median(values) for name, values in found.items()}
    return {"seconds": found, **medians, "times_faster": statistics.median(ratios), "times_faster_by_pair": ratios}


def nothing(rollouts: Sequence[Any]) -> list[Score]:
    return [Score(0.0)] * len(rollouts)


def main() -> None:
    options = race.parser(__doc__)
    options.add_argument("--shape", choices=world.SHAPES, default="small")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    folder = world.make(asked.worlds, asked.shape)
    engine = LocalEngine(load_policy(str(folder / "talking"), device="cpu"), slots=SLOTS)
    prompts = prompts_of(folder)
    judges = {name: compare(engine, prompts, judge, asked.rounds) for name, judge in JUDGES.items()}
    for name, found in judges.items():
        print(f"{name}: { ({k: v for k, v in found.items() if k != 'seconds'}) }")
    command = f"python benchmarks/overlap.py --shape {asked.shape} --rounds {asked.rounds} --threads {asked.threads}"
    about = {"versions": race.our_versions(), "rounds": asked.rounds, "judges": judges}
    paired.write((asked.out or race.RESULTS) / "overlap.json", command, about)


if __name__ == "__main__":
    main()
