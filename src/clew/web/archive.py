"""Exports of the desk: snapshots in a folder of their own, listed and handed out whole."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from clew.feedback.desk import Desk
from clew.feedback.schema import exports

FORMATS = {
    "preference": ("weighted",),
    "votes": ("votes",),
    "unpaired": ("singles",),
    "ranking": ("rankings",),
    "rating": ("scores",),
    "events": (),
}
"""As asked for -> names in `export.EXPORTS`; the events are in every export."""


def exports_of(desk: Desk, project: str) -> list[dict[str, Any]]:
    """Newest first."""
    query = sa.select(exports).where(exports.c.project == project).order_by(exports.c.at.desc())
    with desk.store.read() as connection:
        rows = connection.execute(query).all()
    return [_row(row) for row in rows]


def file_of(desk: Desk, export: str) -> tuple[str, bytes]:
    """Its name and all its files as one archive. Raises KeyError where there is none."""
    with desk.store.read() as connection:
        row = connection.execute(sa.select(exports).where(exports.c.id == export)).first()
    if row is None or not Path(row.folder).is_dir():
        raise KeyError(f"there is no export {export!r}")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(Path(row.folder).iterdir()):
            archive.write(file, file.name)
    return f"{_row(row)['format']}-{export}.zip", packed.getvalue()


def is_named(desk: Desk, export: str) -> bool:
    """Whether people can be known from it. Raises KeyError where there is none."""
    with desk.store.read() as connection:
        options = connection.scalar(sa.select(exports.c.options).where(exports.c.id == export))
    if options is None:
        raise KeyError(f"there is no export {export!r}")
    return bool(json.loads(options)["include_identities"])


def _row(row: Any) -> dict[str, Any]:
    options = json.loads(row.options)
    about = Path(row.folder) / "export.json"
    rows = sum(json.loads(about.read_text(encoding="utf-8"))["rows"].values()) if about.exists() else None
    names = {formats: name for name, formats in FORMATS.items()}
    return {
        "id": row.id,
        "at_ms": row.at,
        "format": names.get(tuple(options["formats"]), "+".join(options["formats"])),
        "rows": rows,
        "identities": options["include_identities"],
        "sha256": row.sha256,
        "events": row.seq_upto,
    }
