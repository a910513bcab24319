"""Failing well: what stops a run says what it was doing, what to change, and where the evidence lies."""

import asyncio
import json
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from clew.batch import Term, evaluate
from clew.config import Config, ConfigError, import_function
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.engines.local import LocalEngine
from clew.failure import NoSpace, OutOfMemory, memory_for
from clew.judges.call import Hangs
from clew.judges.score import RewardFailed, RewardSource, function_reward
from clew.learn.checkpoint import TrainState
from clew.learn.learner import Learner, NotFinite, Optimiser, Part
from clew.models.device import pick_device
from clew.runs import NoState, Run
from clew.types import Prompt, Rollout, Sampling
from tests.recipes.conftest import configured, metrics, run_recipe, world, write  # noqa: F401 (a fixture)
from tests.recipes.test_resume import evaluation

PETABYTE = 1 << 50


class Options(Config):
    out: str = ""


# ---- a loss that is not a number


def test_a_loss_that_is_not_finite_leaves_its_rows_in_the_run(world, tmp_path):  # noqa: F811
    rows = [json.loads(line) for line in Path(world["pairs"]).read_text().splitlines()]
    rows[11]["margin"] = 1e39  # infinite in float32
    bad = write(tmp_path / "bad.jsonl", [{"margin": 0.0, **row} for row in rows])
    file = tmp_path / "rm" / "not_finite.json"
    with pytest.raises(NotFinite, match=rf"loss .* is not finite for item \d of 8.*nothing was changed.*See {file}"):
        run_recipe("reward", tmp_path / "rm", configured("reward", world) | {"data": {"path": bad}})
    found = json.loads(file.read_text())
    assert [
        row["text"].endswith(rows[11][side].strip())
        for row, side in zip(found["rows"], ("chosen", "rejected"), strict=True)
    ]
    assert len(found["rows"][0]["tokens"]) == len(found["rows"][0]["mask"])
    assert found["extras"]["margin"] == [math.inf]
    assert found["step"] == f"step {len(metrics(tmp_path / 'rm'))}"


# ---- out of memory


def rows_of(num: int):
    return collate([[Encoded([1, 2, 3], [False, True, True], True)]] * num)


def greedy(outputs, batch):
    """An objective that wants a petabyte."""
    return [Term("huge", outputs.logps.sum() * torch.ones(PETABYTE), "token")], []


def test_training_that_does_not_fit_names_the_settings(new_policy):
    learner = Learner(new_policy(), Optimiser(), total_steps=1)
    says = (
        r"out of memory while training \([\d,.]+ GB more were wanted\); lower learner.max_tokens, set learner.gradient_"
    )
    with pytest.raises(OutOfMemory, match=says + "checkpointing.*goes on from the last checkpoint"):
        learner.step(Part(rows_of(2).with_weights(token=torch.ones(2, 3)), greedy))


def test_sampling_that_does_not_fit_names_the_setting(new_policy):
    policy = new_policy()
    policy.module.config.max_position_embeddings = PETABYTE
    with pytest.raises(OutOfMemory, match=r"out of memory while sampling \(.* more were wanted\); lower slots"):
        LocalEngine(policy).generate(
            [Prompt("p", (1, 2), "the")], n=1, sampling=Sampling(max_tokens=PETABYTE // 8), key=(0, 0)
        )


def test_reading_rows_that_do_not_fit_names_the_settings():
    class Wide:
        def evaluate(self, batch):
            return torch.empty(PETABYTE)

    with pytest.raises(OutOfMemory, match="out of memory while reading rows.*lower learner.max_tokens"):
        evaluate(Wide(), rows_of(2), max_tokens=100)


def test_a_model_that_does_not_fit_is_said_by_the_run(world, tmp_path):  # noqa: F811
    values = configured("pretrain", world) | {"model": {"width": 1 << 44, "layers": 1, "heads": 2, "context": 128}}
    with pytest.raises(OutOfMemory, match="out of memory while loading models, or between steps.*take smaller models"):
        run_recipe("pretrain", tmp_path / "run", values)


def test_what_cuda_says_is_understood():
    says = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.77 GiB of which 8.12 MiB is free."
    understood = r"^out of memory while sampling \(20.00 MiB more were wanted\); lower slots. Then"
    with pytest.raises(OutOfMemory, match=understood), memory_for("sampling", advice="lower slots"):
        raise torch.OutOfMemoryError(says)


@pytest.mark.gpu
def test_a_gpu_that_is_too_small_is_said():
    says = r"out of memory while training \(1048576.00 GiB more were wanted\)"
    with pytest.raises(OutOfMemory, match=says), memory_for("training", advice="lower learner.max_tokens"):
        torch.empty(PETABYTE, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize(
    "says",
    [
        "MPS backend out of memory (MPS allocated: 16.97 GB, max allowed: 18.13 GB). Tried to allocate 1.19 GB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    ],
)
def test_what_torch_says_elsewhere_is_understood(says):
    with pytest.raises(OutOfMemory, match="^out of memory while sampling"), memory_for("sampling", advice="lower"):
        raise RuntimeError(says)


@pytest.mark.parametrize(
    "says", ["shapes differ", "reward judge raised HTTPError: 500 from the judge's server: CUDA out of memory"]
)
def test_other_errors_are_left_as_they_are(says, tmp_path):
    with pytest.raises(RuntimeError, match=f"^{says}$"), Run(Options(), tmp_path, "toy"):
        raise RuntimeError(says)


def test_after_a_memory_setting_is_lowered_the_run_goes_on(world, tmp_path, monkeypatch):  # noqa: F811
    values = configured("rl", world) | {"steps": 4, "save_every": 2}
    step, calls = Learner.step, []

    def full(self, *parts):
        calls.append(parts)
        if len(calls) > 18:
            torch.empty(PETABYTE)
        return step(self, *parts)

    monkeypatch.setattr(Learner, "step", full)
    with pytest.raises(OutOfMemory):
        run_recipe("rl", tmp_path / "rl", values)
    monkeypatch.undo()
    less = {"max_tokens": 100, "gradient_checkpointing": True}
    changed = values | {"slots": 8, "learner": values["learner"] | less}
    out = run_recipe("rl", tmp_path / "rl", changed)
    assert [row["step"] for row in metrics(out)] == [0, 1, 2, 3]
    assert "goes on with " in (out / "notes.jsonl").read_text()


# ---- rewards


def rollouts(num: int = 4) -> list[Rollout]:
    made = []
    for i in range(num):
        info = {"number": i, "answer": f"a{i}"}
        made.append(Rollout(f"p{i}", [1, 2], [False, True], [0.0, -1.0], "end", 0, f"prompt {i}", f"text {i}", info))
    return made


def sleeps(prompts, completions):
    time.sleep(60)


async def sleeps_async(prompts, completions):
    await asyncio.sleep(60)


@pytest.mark.parametrize("function", [sleeps, sleeps_async])
def test_a_reward_that_hangs_is_left_with_its_stacks(function, tmp_path):
    says = (
        rf"reward {function.__name__}, asked about 4 completions of 'prompt 0', 'prompt 1', 'prompt 2' and 1 other "
        r"prompts, has not returned after 0.2 s; mend it, or raise timeout_s.*See .*hangs.txt"
    )
    began = time.monotonic()
    with pytest.raises(Hangs, match=says), Run(Options(), tmp_path, "toy"):
        function_reward(function, 0.2)(rollouts())
    assert time.monotonic() - began < 10
    stacks = (tmp_path / "hangs.txt").read_text()
    assert "asked about 4 completions" in stacks
    assert f"in {function.__name__}\n" in stacks


def test_a_recipe_whose_reward_hangs_stops(world, tmp_path):  # noqa: F811
    source = {"function": f"{__name__}:sleeps", "timeout_s": 0.2}
    with pytest.raises(Hangs, match="reward sleeps, asked about 8 completions"):
        run_recipe("rl", tmp_path / "rl", configured("rl", world) | {"reward": [source]})
    assert "in sleeps" in (tmp_path / "rl" / "hangs.txt").read_text()


def test_a_function_that_keeps_the_interpreter_to_itself_ends_the_process_with_its_stack():
    script = (
        "import clew.judges.call as c\n"
        "def power(): return 9 ** 9 ** 9\n"
        "c.GRACE_S = 0.3\n"
        "c.call_within(0.2, power, 'reward power')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in power" in ended.stderr


ENDS = {
    "threads": "ThreadPoolExecutor().submit(time.sleep, 60).result()",
    "processes": "ProcessPoolExecutor(mp_context=get_context('fork')).submit(time.sleep, 60).result()",
    "threads of asyncio": "asyncio.to_thread(time.sleep, 60)",
}


@pytest.mark.parametrize("judged", ENDS.values(), ids=ENDS)
def test_a_command_ends_although_the_reward_left_something_that_hangs(judged):
    script = (
        "import asyncio, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from clew import cli\n"
        "from clew.judges.call import call_within\n"
        "def judge():\n"
        "    print('asked', end='')\n"
        f"    return {judged}\n"
        "cli.app = lambda: call_within(0.5, judge, 'reward judge')\n"
        "cli.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout) == (2, "asked")
    assert ended.stderr.startswith("clew: reward judge has not returned after 0.5 s; mend it")


async def counts_later(prompts, completions, number):
    await asyncio.sleep(0)
    return number


def test_a_reward_may_be_async():
    assert [s.value for s in function_reward(counts_later)(rollouts())] == [0, 1, 2, 3]


SLOTS = asyncio.Semaphore(1)


async def asks_in_turn(prompts, completions):
    async def ask(completion):
        async with SLOTS:
            await asyncio.sleep(0)
            return len(completion)

    return await asyncio.gather(*map(ask, completions))


@pytest.mark.parametrize("timeout_s", [30.0, None])
def test_an_async_reward_may_keep_its_client_from_call_to_call(timeout_s):
    reward = function_reward(asks_in_turn, timeout_s)
    for _ in range(3):
        assert [s.value for s in reward(rollouts())] == [6.0] * 4


def test_an_async_reward_that_hangs_is_cancelled():
    cancelled = threading.Event()

    async def waits(prompts, completions):
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    with pytest.raises(Hangs):
        function_reward(waits, 0.2)(rollouts())
    assert cancelled.wait(10)


async def blocks(prompts, completions):
    time.sleep(60)


def test_an_async_reward_that_blocks_its_loop_does_not_block_the_next():
    with pytest.raises(Hangs):
        function_reward(blocks, 0.2)(rollouts())
    assert [s.value for s in function_reward(counts_later, 10.0)(rollouts())] == [0, 1, 2, 3]


def quits(prompts, completions):
    sys.exit(0)


async def quits_later(prompts, completions):
    await asyncio.sleep(0)
    sys.exit(0)


async def quits_among_others(prompts, completions):
    return await asyncio.gather(asyncio.sleep(1), quits_later(prompts, completions))


@pytest.mark.parametrize("function", [quits, quits_later, quits_among_others])
@pytest.mark.parametrize("timeout_s", [10.0, None])
def test_a_reward_that_quits_is_an_error(function, timeout_s):
    says = f"reward {function.__name__} raised SystemExit for 4 completions: 0"
    with pytest.raises(RuntimeError, match=says):
        function_reward(function, timeout_s)(rollouts())
    assert [s.value for s in function_reward(counts_later, 10.0)(rollouts())] == [0, 1, 2, 3]


def own_timeout(prompts, completions):
    raise TimeoutError("the judge did not answer")


def takes_signals(prompts, completions):
    signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGALRM))
    return [float(threading.current_thread() is threading.main_thread())] * len(prompts)


def needs_a_column(prompts, completions, solution, *, strict=True):
    return [0.0] * len(prompts)


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (
            own_timeout,
            RuntimeError,
            "reward own_timeout raised TimeoutError for 4 completions: the judge did not answer",
        ),
        (takes_signals, RuntimeError, "only works in main thread.*set timeout_s: null to call it in the main thread"),
        (needs_a_column, ValueError, r"needs the column 'solution'; the data's columns: \['answer', 'number'\]"),
    ],
)
def test_rewards_that_fail_say_how(function, error, says):
    with pytest.raises(error, match=says):
        function_reward(function)(rollouts())


def test_without_a_time_limit_a_reward_runs_in_the_main_thread():
    assert [s.value for s in function_reward(takes_signals, None)(rollouts())] == [1.0] * 4


@pytest.mark.parametrize("recipe", ["label", "evaluate"])
def test_gold_has_a_time_limit_of_its_own(recipe, world, tmp_path):  # noqa: F811
    values = configured(recipe, world) if recipe == "label" else evaluation(world)
    values |= {"gold": f"{__name__}:takes_signals"}
    with pytest.raises(RuntimeError, match="main thread.*set timeout_s: null"):
        run_recipe(recipe, tmp_path / "run", values)
    out = run_recipe(recipe, tmp_path / "run", values | {"timeout_s": None})
    assert json.loads((out / "run.json").read_text())["state"] == "finished"


def test_options_of_a_reward_keep_their_names():
    def limited(prompts, completions, *, timeout_s):
        return [timeout_s] * len(prompts)

    assert function_reward(limited, 5.0, timeout_s=3.0)(rollouts())[0].value == 3.0


def test_a_time_limit_is_positive():
    with pytest.raises(ValueError, match="greater than 0"):
        RewardSource(function="x:y", timeout_s=0)


def sees_its_own_row(prompts, completions, same, number):
    assert all(p == s for p, s in zip(prompts, same, strict=True)), "a row of another prompt"
    return [float(n) for n in number]


def test_every_answer_is_judged_by_its_own_row(world, tmp_path):  # noqa: F811
    prompts = [json.loads(line)["prompt"] for line in Path(world["prompts"]).read_text().splitlines()]
    prompts = list(dict.fromkeys(prompts))
    data = write(tmp_path / "p.jsonl", ({"prompt": p, "same": p, "number": i} for i, p in enumerate(prompts)))
    values = configured("rl", world) | {
        "data": {"path": data}, "reward": [{"function": f"{__name__}:sees_its_own_row"}], "group": 3, "steps": 3,
    }  # fmt: skip
    out = run_recipe("rl", tmp_path / "rl", values)
    for line in (out / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        assert prompts.index(sample["prompt"]) == sample["score"]


# ---- disk


class Huge(NoState):
    def __init__(self, size: int) -> None:
        self.size = size

    def num_bytes(self) -> tuple[int, int]:
        return self.size, self.size


@pytest.mark.parametrize(
    ("total", "save_every", "keep", "num"),
    [(100, 10, 2, 4), (100, 10, None, 10), (100, 30, None, 4), (100, 100, 2, 1), (5, 100, 2, 1)],
)
def test_a_run_that_the_disk_cannot_hold_is_refused_before_its_first_step(total, save_every, keep, num, tmp_path):
    says = rf"will take [\d,.]+ GB \({num} checkpoints of 1,125,899.9 GB and a model of .* GB\), and [\d,.]+ [GM]B are free"
    with pytest.raises(NoSpace, match=says), Run(Options(), tmp_path, "toy") as run:
        for _ in run.steps(total, Huge(PETABYTE), save_every=save_every, keep=keep):
            pytest.fail("a step was made")


def test_checkpoints_that_are_there_already_are_not_counted_again(tmp_path):
    run = Run(Options(), tmp_path, "toy")
    for _ in run.steps(6, Huge(10), save_every=2, keep=2):
        pass
    with pytest.raises(NoSpace, match=r"\(2 checkpoints of"):
        next(run.steps(100, Huge(PETABYTE), save_every=2, keep=2))
    assert list(run.steps(6, Huge(PETABYTE), save_every=2, keep=2)) == []


def test_the_size_of_a_checkpoint_is_foreseen(new_policy, tmp_path):
    policy = new_policy()
    learner = Learner(policy, Optimiser(), total_steps=1)
    state = TrainState({"policy": learner})
    checkpoint, model = state.num_bytes()
    batch = rows_of(2).with_weights(token=torch.ones(2, 3))
    learner.step(Part(batch, lambda outputs, b: ([Term("nll", -outputs.logps, "token")], [])))
    state.save(tmp_path / "c")
    weights, moments = ((tmp_path / "c" / n).stat().st_size for n in ("model.safetensors", "optimizer.safetensors"))
    assert model == pytest.approx(weights, rel=0.2)  # the header of a tiny file is large
    assert checkpoint == pytest.approx(weights + moments, rel=0.2)


# ---- devices


@pytest.mark.parametrize(
    ("device", "there", "says"),
    [
        ("cuda", torch.cuda.is_available, "device: cuda, but torch .* set device: cpu, or auto"),
        ("mps", torch.backends.mps.is_available, "device: mps, but torch .* finds no Apple GPU; set device: cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, there, says):
    if there():
        pytest.skip(f"{device} is there")
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match=says):
        pick_device(device)


def test_bfloat16_on_a_gpu_without_it_is_refused(monkeypatch):
    for name, answer in (("is_available", True), ("is_bf16_supported", False), ("get_device_name", "Tesla T4")):
        monkeypatch.setattr(torch.cuda, name, lambda *a, answer=answer, **k: answer)
    assert pick_device("auto", "fp32").type == "cuda"
    with pytest.raises(ConfigError, match="precision: bf16, but a Tesla T4 has no bfloat16; set precision: fp32"):
        pick_device("auto", "bf16")


def test_sampling_on_mps_is_refused():
    class Apple:
        device = torch.device("mps")

    with pytest.raises(ValueError, match="float64, which MPS does not have; set device: cpu"):
        LocalEngine(Apple())


def test_a_reward_that_raises_says_where_and_leaves_the_rest_in_the_run(tmp_path):
    (tmp_path / "mine.py").write_text("def broken(prompts, completions):\n    return [1 / 0]\n")
    reward = function_reward(import_function(f"{tmp_path}/mine.py:broken"))
    says = r"reward broken raised ZeroDivisionError for 4 completions: .* \(.*mine.py:2\). See .*reward_error.txt"
    with pytest.raises(RewardFailed, match=says), Run(Options(), tmp_path / "run", "toy"):
        reward(rollouts())
    assert "return [1 / 0]" in (tmp_path / "run" / "reward_error.txt").read_text()
