"""An environment of its own for each peer, made once in a folder.

python -m tools.peers.environment trl FOLDER   # prints its Python
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = {"trl": ("1.16.0", ["trl=={version}"]), "openrlhf": ("0.11.2", ["--no-deps", "openrlhf=={version}"])}
"""Version and what to install. OpenRLHF's dependencies (flash-attn, deepspeed, ray) have no part in its losses."""


def environment(peer: str, folder: Path) -> Path:
    """The Python of a virtual environment in `folder` with torch, numpy and the peer; one that is there is used."""
    version, packages = PEERS[peer]
    place = folder.absolute() / f"{peer}-{version}"
    python = place / "bin" / "python"
    if not python.exists():
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
        try:
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            subprocess.run([*install, "torch", "numpy"], check=True)
            subprocess.run([*install, *(name.format(version=version) for name in packages)], check=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(place, ignore_errors=True)  # half an environment would be taken for a whole one
            raise
    return python


if __name__ == "__main__":
    sys.stdout.write(f"{environment(sys.argv[1], Path(sys.argv[2]))}\n")
