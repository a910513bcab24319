"""What the documentation shows, runs; what the architecture promises about size, holds."""

import json
import re
from pathlib import Path

import pytest
import yaml

from clew.data import grammar
from tests.recipes.conftest import world, write  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "clew"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_python_of_the_docs_runs(world, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    (tmp_path / "runs" / "sft" / "model").symlink_to(world["model"])
    (tmp_path / "pairs.jsonl").symlink_to(world["pairs"])
    write(tmp_path / "prompts.jsonl", grammar.prompts(num=20, seed=0))
    recipe, by_step, notebook = blocks("python.md", "python")
    exec(compile(recipe, "docs/python.md", "exec"), {})
    assert (tmp_path / "runs" / "dpo" / "model" / "model.safetensors").exists()
    names: dict = {}
    exec(compile(by_step, "docs/python.md", "exec"), names)
    assert names["learner"].steps == 5
    exec(compile(notebook, "docs/python.md", "exec"), names)
    assert "<html" in names["report"].read_text()
    assert len(names["rollouts"]) == 6


def test_the_methods_of_the_docs_exist():
    from clew.losses.advantage import GROUP_ADVANTAGES
    from clew.losses.pair import PAIR_LOSSES
    from clew.losses.rank import RANK_LOSSES
    from clew.losses.single import POINT_LOSSES

    page = (ROOT / "docs" / "methods.md").read_text()
    for name in (*GROUP_ADVANTAGES, *PAIR_LOSSES, *RANK_LOSSES, *POINT_LOSSES, "kto", "ordinal", "gae", "clipped"):
        assert f"`{name}`" in page, f"docs/methods.md does not mention {name}"


def test_the_tests_that_the_docs_name_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "pains.md").read_text()))
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) > 40
    assert named <= there, sorted(named - there)


READING = (
    "types.py", "batch.py", "losses/pair.py", "losses/token.py", "losses/advantage.py", "losses/kl.py", "data/collate.py",
    "learn/learner.py", "models/layout.py", "models/trunk.py", "models/heads.py", "models/policy.py", "engines/local.py",
    "shaping.py", "experience.py", "policy_gradient.py", "recipes/sft.py", "recipes/rl.py",
)  # fmt: skip


def test_the_afternoons_reading_is_at_most_2500_lines():
    files = [file for pattern in READING for file in SOURCE.glob(pattern)]
    assert len(files) == len(READING)
    assert sum(len(f.read_text().splitlines()) for f in files) <= 2500


@pytest.mark.parametrize("file", sorted((SOURCE / "recipes").glob("*.py")), ids=lambda f: f.stem)
def test_a_recipe_is_at_most_200_lines(file):
    assert len(file.read_text().splitlines()) <= 200


def test_every_page_of_the_docs_is_in_the_menu_and_every_link_leads_somewhere():
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = {page for entry in menu for page in entry.values()}
    pages = {p.name for p in (ROOT / "docs").glob("*.md")}
    assert listed == pages
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / "docs" / page).read_text()):
            assert (ROOT / "docs" / target).exists(), f"{page} links to {target}"


def test_committed_results_name_their_command_and_versions():
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        content = json.loads(file.read_text())
        assert content["command"]
        assert content["versions"]
