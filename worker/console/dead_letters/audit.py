"""What was done to dead letters, in words."""

from __future__ import annotations

from trading_system.ml_refinement.storage import AuditEntry


def audit_words(entry: AuditEntry) -> str:
    """What was done, apart from who did it and to which."""
    detail = entry.detail
    if entry.action == "replayed":
        return f"sent to its stream again, as {detail.get('new_entry_id', 'an unknown entry')}"
    if entry.action == "discarded":
        return f"put away: {detail.get('reason', 'no reason given')}"
    if entry.action == "edited":
        changed = str(detail.get("difference", "")).splitlines()
        lines = [line for line in changed if line[:1] in "+-" and line[:3] not in ("---", "+++")]
        return f"changed what a replay sends, in {len(lines):,} line{'' if len(lines) == 1 else 's'}"
    if entry.action == "pruned":
        return (
            f"dropped for its age; it was {detail.get('was', 'settled')}, for {detail.get('reason', 'no known reason')}"
        )
    return ", ".join(f"{name} {value}" for name, value in detail.items())


def audit_difference(entry: AuditEntry) -> str:
    """The lines that an edit changed; empty for anything else, and for edits that were too large to compare."""
    lines = str(entry.detail.get("difference", "")).splitlines() if entry.action == "edited" else []
    return "\n".join(line for line in lines if line[:2] != "@@" and line[:3] not in ("---", "+++"))
