"""The desk under load: how long raters wait for an answer to be on disk, and how many a second it takes at most.

    python benchmarks/desk.py [--rate 50] [--raters 100] [--seconds 60]

Open loop: answers are due at times, and of raters, drawn beforehand (Poisson), and latency counts from the time an
answer was due, not from when it was sent, so that a slow server cannot slow its own clock. Meanwhile its rater leases
ahead, as the page does. SQLite with synchronous=FULL; an answer is acknowledged after its commit. Saturation is a
closed loop, told beside the raw commits (one row each) that the same disk takes in the same run. Limits on rates are
lifted: all raters come from one address.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import paired

RESULTS = Path(__file__).parent / "results"
HEADERS = {"X-Clew": "1", "Content-Type": "application/json"}
WARM_S = 3
"""Before anything counts: caches, the first pages of the log."""
RAW_S = 3
AHEAD = 2
"""Tasks at hand, or fewer, when a page leases more (supply.js)."""
CLIENTS = 2
"""Processes of the closed loop."""


def main() -> None:
    asked = _options()
    if asked.serve:
        serve(Path(asked.serve))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        before = raw_commits(Path(folder))
        server, url, token = _start(Path(folder), asked.tasks)
        try:
            raters, project = _hire(url, token, asked.raters)
            before_cpu = _cpu_s(server.pid)
            loop = asyncio.run(open_loop(url, project, raters, rate=asked.rate, seconds=asked.seconds))
            spent = 1e3 * (_cpu_s(server.pid) - before_cpu) / (loop["acknowledged"] + loop["warm"])
            loop["server_cpu_ms_an_answer"] = round(spent, 2)
            most = saturation(url, project, raters, seconds=asked.saturate)
        finally:
            server.terminate()
            server.wait(30)
        raw = (before + raw_commits(Path(folder))) / 2
        kept = _kept(Path(folder) / "desk.sqlite")
    assert kept == loop["acknowledged"] + loop["warm"] + most["acknowledged"], "acknowledged is not what is kept"
    saturated = {**most, "raw_commits_a_second": round(raw, 1), "of_raw": round(most["answers_a_second"] / raw, 3)}
    versions = {name: version(name) for name in ("clew", "fastapi", "uvicorn", "sqlalchemy", "httpx")}
    versions["sqlite"] = sqlite3.sqlite_version
    found = {
        "versions": versions,
        "rate": asked.rate,
        "raters": asked.raters,
        "open_loop": loop,
        "saturation": saturated,
        "kept": kept,
    }
    command = f"python benchmarks/desk.py --rate {asked.rate} --raters {asked.raters} --seconds {asked.seconds}"
    paired.write((asked.out or RESULTS) / "desk.json", command, found)
    print(json.dumps(found, indent=1))


async def open_loop(
    url: str, project: str, raters: Sequence[dict[str, str]], *, rate: float, seconds: float
) -> dict[str, Any]:
    """Latencies in ms of answers, from when each was due, and of leases, from when they were sent."""
    rng = random.Random(0)
    due, times = 0.0, list[float]()
    while (due := due + rng.expovariate(rate)) < WARM_S + seconds:
        times.append(due)
    people = [Rater(url, project, cookies, rng.random()) for cookies in raters]
    for person in people:
        await person.lease()
    began = time.perf_counter()
    waits = await asyncio.gather(*(rng.choice(people).answer_at(began + at) for at in times), return_exceptions=True)
    errors = [repr(w) for w in waits if isinstance(w, BaseException)]
    counted = [w for w, at in zip(waits, times, strict=True) if at >= WARM_S and isinstance(w, float)]
    leases = [wait for person in people for wait in person.lease_waits]
    for person in people:
        await person.client.aclose()
    return {
        "seconds": seconds,
        "answer_ms": _quantiles(counted),
        "lease_ms": _quantiles(leases),
        "acknowledged": len(counted),
        "warm": sum(isinstance(w, float) for w in waits) - len(counted),
        "errors": len(errors),
        "first_errors": errors[:3],
    }


class Rater:
    """A page: one answer at a time, and tasks leased ahead meanwhile."""

    def __init__(self, url: str, project: str, cookies: dict[str, str], seed: float) -> None:
        limits = httpx.Limits(max_connections=2, max_keepalive_connections=2, keepalive_expiry=60)
        self.client = httpx.AsyncClient(base_url=url, headers=HEADERS, cookies=cookies, limits=limits, timeout=30)
        self.project, self.ready, self.rng = project, list[str](), random.Random(seed)
        self.lease_waits: list[float] = []
        self._turn, self._is_leasing = asyncio.Lock(), False

    async def lease(self) -> None:
        """As many as one may hold, where no more than the current task and one after it are at hand."""
        if len(self.ready) > AHEAD or self._is_leasing:
            return
        self._is_leasing, began = True, time.perf_counter()
        body = {"n": 5, "have": self.ready}
        reply = await self.client.post(f"/api/v1/projects/{self.project}/leases", json=body)
        reply.raise_for_status()
        self.lease_waits.append(1e3 * (time.perf_counter() - began))
        self.ready += [task["lease"] for task in reply.json()["tasks"]] if reply.content else []
        self._is_leasing = False

    async def answer_at(self, due: float) -> float:
        """ms from when it was due until it was on disk; what comes after is not waited for."""
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        async with self._turn:
            await self.answer()
            wait = 1e3 * (time.perf_counter() - due)
        await self.lease()
        return wait

    async def answer(self) -> None:
        verdict, margin = self.rng.choice([("first", 3), ("second", 1), ("tie", 0), ("both_bad", 0)])
        body = {
            "answer": {"kind": "comparison", "verdict": verdict, "margin": margin},
            "client_ms": 4200,
            "note": "clearer",
        }
        reply = await self.client.post(f"/api/v1/leases/{self.ready.pop(0)}/answer", json=body)
        if reply.status_code != 201:
            raise RuntimeError(f"{reply.status_code} {reply.text}")


def saturation(url: str, project: str, raters: Sequence[dict[str, str]], *, seconds: float) -> dict[str, Any]:
    """Answers a second when everybody answers as fast as the server lets them, a lease for each."""
    with multiprocessing.get_context("spawn").Pool(CLIENTS) as pool:
        parts = [(url, project, raters[i::CLIENTS], seconds) for i in range(CLIENTS)]
        found = pool.starmap(_hammer, parts)
    counts, waits = [len(w) for w in found], [wait for w in found for wait in w]
    return {
        "answers_a_second": round(sum(counts) / seconds, 1),
        "answer_ms": _quantiles(waits),
        "acknowledged": sum(counts),
    }


def _hammer(url: str, project: str, raters: Sequence[dict[str, str]], seconds: float) -> list[float]:
    async def all_of_them() -> list[float]:
        people = [Rater(url, project, cookies, i) for i, cookies in enumerate(raters)]
        end = time.perf_counter() + seconds
        return [wait for waits in await asyncio.gather(*(_busy(p, end) for p in people)) for wait in waits]

    return asyncio.run(all_of_them())


async def _busy(rater: Rater, end: float) -> list[float]:
    waits: list[float] = []
    while time.perf_counter() < end:
        await rater.lease()
        began = time.perf_counter()
        await rater.answer()
        waits.append(1e3 * (time.perf_counter() - began))
    return waits


def raw_commits(folder: Path) -> float:
    """Transactions of one small row a second, on this disk, with FULL durability and nothing else in the way."""
    connection = sqlite3.connect(folder / f"raw-{secrets.token_hex(4)}.sqlite", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE row (body TEXT)")
    number, end = 0, time.perf_counter() + RAW_S
    while time.perf_counter() < end:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO row VALUES (?)", ("x" * 500,))
        connection.execute("COMMIT")
        number += 1
    connection.close()
    return number / RAW_S


def serve(folder: Path) -> None:
    """The server of this benchmark: the desk as `clew desk` runs it, without limits on rates."""
    from clew.cli_desk import link
    from clew.feedback.desk import Desk
    from clew.feedback.store import Store
    from clew.web import serve as server
    from clew.web.app import create_app
    from clew.web.limits import Limits

    free = Limits(**{f"{who}_{what}": 1e9 for who in ("address", "person", "login") for what in ("rate", "burst")})
    desk = Desk(Store.open(folder / "desk.sqlite", serve=True))
    opened = server.listen("127.0.0.1", 0)
    place = server.place("127.0.0.1", opened.getsockname()[1], None)
    app = create_app(desk, place, limits=free, media_folder=folder / "media")
    print(link(desk, place.url), flush=True)
    server.serve(app, opened, free, is_behind_proxy=False)


def _start(folder: Path, num_tasks: int) -> tuple[subprocess.Popen[str], str, str]:
    _fill(folder / "desk.sqlite", num_tasks)
    command = [sys.executable, __file__, "--serve", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url, _, token = server.stdout.readline().strip().partition("/#token=")
    return server, url, token


def _fill(file: Path, num: int) -> None:
    """Pairs of some hundred words with Markdown in them."""
    from clew.feedback.desk import Desk
    from clew.feedback.projects import ProjectConfig
    from clew.feedback.records import Item, Task
    from clew.feedback.store import Store
    from clew.web.access import now_ms

    desk = Desk(Store.open(file))
    project = desk.projects.add("load", ProjectConfig(kind="comparison"), actor="benchmark", now=now_ms())
    tasks, items = list[Task](), list[Item]()
    for i in range(num):
        prompt = f"How do I read file number {i} line by line?"
        two = [Item(prompt=prompt, completion=f"{who} {i}: {TEXT}") for who in ("First", "Second")]
        items += two
        tasks.append(Task(kind="comparison", prompt=prompt, items=tuple(item.id for item in two)))
    desk.projects.put(project.id, tasks, items=items, actor="benchmark", now=now_ms())
    desk.store.close()


def _hire(url: str, token: str, num: int) -> tuple[list[dict[str, str]], str]:
    """Cookies of raters who are logged in, and the project."""
    with httpx.Client(base_url=f"{url}/api/v1", headers=HEADERS, timeout=30) as owner:
        owner.post("/session", json={"token": token}).raise_for_status()
        project = owner.get("/projects").json()[0]["id"]
        links = [owner.post("/people", json={"role": "annotator", "name": str(i)}).json()["link"] for i in range(num)]
    cookies: list[dict[str, str]] = []
    for link in links:
        reply = httpx.post(f"{url}/api/v1/session", json={"token": link.partition("#token=")[2]}, headers=HEADERS)
        cookies.append(dict(reply.cookies))
    return cookies, project


def _cpu_s(pid: int) -> float:
    """Processor time of a process, in seconds; Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kept(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        return connection.execute("SELECT count(*) FROM feedback").fetchone()[0]


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
    return {name: round(float(np.quantile(values, q)), 1) for name, q in at.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=50.0, help="Answers a second.")
    parser.add_argument("--raters", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--saturate", type=float, default=15.0, help="Seconds of the closed loop.")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--folder", help="On the disk to be measured; the one of temporary files by default.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


TEXT = """here is how, and why it is **lazy**:

1. open the *file* in a `with` block, so that it is closed whatever happens;
2. go through it as any other iterable: a line at a time is in memory, however long the file is.

```python
with open(path, encoding="utf-8") as file:
    for line in file:
        print(line.rstrip())
```

Reading it whole with `readlines()` is simpler to debug, and needs as much memory as the file is long. For a table,
see the [csv module](https://docs.python.org/3/library/csv.html).
"""

if __name__ == "__main__":
    main()
