"""A file system of a few megabytes that can be filled up, where this user may mount one."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path


class SmallDisk:
    """Mounted at `place`, an empty directory, until `close`.

    Raises:
        OSError: no file system can be mounted here.
    """

    def __init__(self, place: Path, *, megabytes: int) -> None:
        place.mkdir(exist_ok=True)
        options = f"size={megabytes}m,mode=0700"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise OSError("there is no mount") from error
        if done.returncode:
            raise OSError(f"no file system can be mounted here: {done.stderr.decode(errors='replace').strip()}")
        self.place = place

    def fill(self) -> None:
        """Take up all of the space."""
        with (self.place / "ballast").open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def make_room(self) -> None:
        """Give back what `fill` took."""
        (self.place / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it; what somebody still has open is there for him until he closes it."""
        subprocess.run(["umount", "-l", str(self.place)], check=True)


def can_be_mounted(directory: Path) -> bool:
    """Whether this user may mount a file system in that directory."""
    place = directory / "small-disk"
    try:
        SmallDisk(place, megabytes=1).close()
    except OSError:
        return False
    finally:
        place.rmdir()
    return True
