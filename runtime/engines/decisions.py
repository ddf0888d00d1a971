"""What was measured on this machine, kept between runs in the user's cache folder.

A file holds one finding and the facts it was made under; other facts have another file. The folder is a convenience:
what cannot be read there is measured again, and where it cannot be written nothing is kept.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from runtime.errors import FpcError
from runtime.files import whole_file

log = logging.getLogger(__name__)

Facts = Mapping[str, object]
Finding = TypeVar("Finding", bound=BaseModel)

VARIABLE = "FPC_DEPLOY_CACHE"
"""Environment variable that names another folder."""
MAX_BYTES = 64 * 2**10


def cache_folder() -> Path | None:
    """Return the folder of what can be made again: `$FPC_DEPLOY_CACHE`, else where XDG says; None without a home."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "fpc-deploy"
    try:
        return Path.home() / ".cache" / "fpc-deploy"
    except RuntimeError:  # a service without a home
        return None


def recall(kind: type[Finding], facts: Facts) -> Finding | None:
    """Return what was found under `facts`; None if nothing was, or if the file is damaged."""
    path = place_of(kind, facts)
    if path is None:
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("facts") != _plain(facts):
            raise ValueError("made under other facts")
        return kind.model_validate(content.get("finding"), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        log.info("%s is no measurement of this version and is made again: %s", path, str(error).splitlines()[0])
        return None


def remember(finding: BaseModel, facts: Facts) -> None:
    """Keep `finding` for the next run; the file appears whole or not at all."""
    path = place_of(type(finding), facts)
    if path is None:
        return
    text = json.dumps({"facts": _plain(facts), "finding": finding.model_dump(mode="json")}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_text(text + "\n", encoding="utf-8")
    except (OSError, FpcError) as error:
        log.info("what was measured is not kept: %s", error)


def place_of(kind: type[BaseModel], facts: Facts) -> Path | None:
    """Return the file of what is found under `facts`; None where nothing is kept."""
    folder = cache_folder()
    if folder is None:
        return None
    name = hashlib.sha256(json.dumps([kind.__name__, _plain(facts)], sort_keys=True).encode()).hexdigest()
    return folder / "engines" / f"{name[:32]}.json"


def _plain(facts: Facts) -> object:
    """The facts as JSON gives them back: tuples are lists there."""
    return json.loads(json.dumps(dict(facts), sort_keys=True))
