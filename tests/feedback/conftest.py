"""Stores of both kinds: SQLite in a folder, and a real PostgreSQL server that the tests start and stop."""

import os
import random
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from clew.feedback.desk import Desk
from clew.feedback.store import Store

BINARIES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="session")
def postgres():
    """URL of a server of our own, on a socket in a folder of its own."""
    if not (BINARIES / "initdb").exists():
        pytest.skip(f"no PostgreSQL 15 in {BINARIES}")
    pytest.importorskip("psycopg", reason="pip install 'clew[postgres]'")
    folder = Path(tempfile.mkdtemp(prefix="clew-pg-"))
    user = {"user": "nobody"} if os.getuid() == 0 else {}  # the server refuses to run as root
    if user:
        shutil.chown(folder, "nobody")

    def run(program, *arguments):
        command = [str(BINARIES / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **user)

    run("initdb", "-U", "clew", "--auth=trust", "-E", "UTF8", "--no-sync")
    run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -c listen_addresses=''", "start")
    yield f"postgresql://clew@/postgres?host={folder}"
    run("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """Where a new, empty store may be."""
    return tmp_path / "s.sqlite" if request.param == "sqlite" else new_schema(request.getfixturevalue("postgres"))


def new_schema(url):
    """URL of a schema of its own on the server."""
    import psycopg

    schema = f"s_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    return f"{url}&options=-csearch_path%3D{schema}"


@pytest.fixture
def store(place):
    store = Store.open(place)
    yield store
    store.close()


@pytest.fixture
def desk(store, monkeypatch):
    """Its ids and keys are drawn from a seed, so that each run is the same."""
    draw_from_a_seed(monkeypatch)
    return Desk(store)


def draw_from_a_seed(monkeypatch):
    rng = random.Random(0)
    monkeypatch.setattr(secrets, "token_hex", lambda num: rng.randbytes(num).hex())
