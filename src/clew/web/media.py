"""Clips and pictures, named by the sha256 of their content, so that a name tells nothing and cannot point elsewhere."""

import hashlib
import re
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse

from clew.web.access import Caller
from clew.web.gate import API, Refused

TYPES = {"mp4": "video/mp4", "webm": "video/webm", "png": "image/png", "jpg": "image/jpeg", "gif": "image/gif"}
NAME = re.compile(r"[0-9a-f]{64}\.(" + "|".join(TYPES) + ")")
MOST_BYTES = 200 << 20

media = APIRouter(prefix=API)


def keep(file: Path, folder: Path) -> str:
    """Copy a file to where the desk serves from; its name there. Raises ValueError for other kinds of files."""
    end = file.suffix.lower().removeprefix(".").replace("jpeg", "jpg")
    if end not in TYPES:
        raise ValueError(f"{file}: clips and pictures end in {', '.join(TYPES)}")
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"{file} has more than {MOST_BYTES >> 20} MB")
    content = file.read_bytes()
    name = f"{hashlib.sha256(content).hexdigest()}.{end}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        building = folder / f"{name}.partial"
        building.write_bytes(content)
        building.replace(folder / name)
    return name


async def folder_of(request: Request) -> Path:
    return request.app.state.media


@media.get("/media/{name}")
def clip(name: str, caller: Caller, folder: Annotated[Path, Depends(folder_of)]) -> FileResponse:
    """Whole or, with Range, in parts."""
    if not NAME.fullmatch(name) or not (folder / name).is_file():
        raise Refused(404, "not_found", "no such clip")
    headers = {"cache-control": "private, max-age=31536000, immutable"}
    return FileResponse(folder / name, media_type=TYPES[name[65:]], headers=headers)
