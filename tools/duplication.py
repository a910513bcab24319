"""Code written twice: exits 1 and names the places when two stretches of the source share many lines.

    python tools/duplication.py [--lines 6] [folder …]

Blank lines, comments, imports and signatures' closing lines do not count; indentation does not matter.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path


def counted_lines(file: Path) -> list[tuple[int, str]]:
    """Line numbers and text of the lines that count."""
    kept: list[tuple[int, str]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if len(text) > 3 and not text.startswith(("#", "import ", "from ", '"""', ") ->")):
            kept.append((number, text))
    return kept


def repeats(files: list[Path], size: int) -> list[str]:
    """Places that share `size` counted lines in a row."""
    seen: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for file in files:
        lines = counted_lines(file)
        for i in range(len(lines) - size + 1):
            seen[tuple(text for _, text in lines[i : i + size])].append((file, lines[i][0]))
    places = [found for found in seen.values() if len(found) > 1]
    return [" ~ ".join(f"{file}:{number}" for file, number in found) for found in places]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=6)
    parser.add_argument("folders", nargs="*", default=["src"])
    options = parser.parse_args()
    files = [file for folder in options.folders for file in sorted(Path(folder).rglob("*.py"))]
    found = repeats(files, options.lines)
    print("\n".join(found) or f"no {options.lines} lines are written twice in {len(files)} files")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
