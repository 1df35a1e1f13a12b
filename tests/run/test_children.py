"""The processes that `refinery up` starts."""

from __future__ import annotations

from pathlib import Path

import psutil

from worker.supervision.children import Children


def test_children_get_secrets_in_their_environment_alone(tmp_path: Path) -> None:
    """Every user of the machine reads command lines; an environment is its own user's."""
    address = f"unix://ops:s3cret-word@{tmp_path}/nobody-listens.sock"
    environment = {"REFINERY_REDIS_URL": address, "REFINERY_STATE_DIR": str(tmp_path / "var")}
    others = psutil.Process().children()
    children = Children(environment, grace_s=30)
    try:
        children.start("worker")  # it waits for the server
        [child] = [one for one in psutil.Process().children() if one not in others]
        assert child.environ()["REFINERY_REDIS_URL"] == address
        assert not any("s3cret-word" in word for word in child.cmdline())
    finally:
        children.stop()
