"""The audit log: who asked for what, when, of how many entries, and why.

It outlives the entries it speaks of, so it holds neither an image nor a vector, and no name of an identity that is no
longer in the gallery.
"""

import getpass
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from runtime.gallery.catalogue import Catalogue, Change, seal
from runtime.gallery.records import AuditRecord

_REDACTED = "[removed identity]"


def now() -> str:
    """The time as ISO 8601 UTC; strings of it sort by time."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def user() -> str:
    """Name of the user who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def write(change: Change, actor: str | None, action: str, ids: Sequence[int], reason: str) -> None:
    """Add a line to the log, within the transaction that it speaks of."""
    content = (now(), actor or user(), action, len(ids), ranges(ids), reason)
    change.connection.execute(
        "INSERT INTO audit (at, actor, action, count, entries, reason, seal) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*content, seal(*content)),
    )


def redact(change: Change, names: Iterable[str]) -> None:
    """Take names of identities out of the reasons and actors written so far."""
    names = sorted(names, key=len, reverse=True)  # "Ann Lee" before "Ann", which is part of it
    if not names:
        return
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names))
    rows = change.connection.execute("SELECT id, at, actor, action, count, entries, reason FROM audit").fetchall()
    for id_, at, actor, action, count, entries, reason in rows:
        cleaned = (pattern.sub(_REDACTED, actor), pattern.sub(_REDACTED, reason))
        if cleaned != (actor, reason):
            content = (at, cleaned[0], action, count, entries, cleaned[1])
            change.connection.execute(
                "UPDATE audit SET actor=?, reason=?, seal=? WHERE id=?", (*cleaned, seal(*content), id_)
            )


def read(catalogue: Catalogue) -> list[AuditRecord]:
    """The whole log, oldest first."""
    rows = catalogue.connection.execute("SELECT at, actor, action, count, entries, reason FROM audit ORDER BY id")
    return [AuditRecord(*row) for row in rows]


def ranges(ids: Iterable[int]) -> str:
    """Write ids as ranges: `1-4,7`."""
    parts: list[list[int]] = []
    for id_ in sorted(ids):
        if parts and parts[-1][1] == id_ - 1:
            parts[-1][1] = id_
        else:
            parts.append([id_, id_])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
