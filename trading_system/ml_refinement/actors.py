"""Names of those who act, for what is kept of their acts."""

from __future__ import annotations

import os
import pwd
from typing import Final

#: What decides about candidates and champions at the end of a training.
GATE: Final = "gate"
#: What asks for trainings that are due.
SCHEDULE: Final = "schedule"
#: A replay whose entry names nobody's request: another store's, an older release's, or a forged one.
UNKNOWN: Final = "unknown"


def acting_user() -> str:
    """The user that this process runs as; where that came by sudo, who called it too, as `alice as refinery`."""
    number = os.getuid()
    try:
        user = pwd.getpwuid(number).pw_name
    except KeyError:
        user = f"uid {number}"
    caller = os.environ.get("SUDO_USER")
    return f"{caller} as {user}" if caller and caller != user else user
