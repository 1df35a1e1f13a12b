"""RQ unpickles nothing in a process that reached it through any module of ours, whichever was loaded first."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source_tree import ROOT

#: Every module of ours that loads RQ, and so may be the one through which a process reaches it.
REACHING_RQ = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in (ROOT / "worker").rglob("*.py")
    if re.search(r"^(?:from|import) rq\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
)
#: RQ's classes are taken hold of before ours are loaded, as RQ's own modules do.
READ = """
import sys
from pathlib import Path
import rq.serializers
from rq.serializers import DefaultSerializer, PickleSerializer, resolve_serializer
__import__(sys.argv[1])
bomb = Path(sys.argv[2]).read_bytes()
for each in (
    DefaultSerializer, PickleSerializer, rq.serializers.DefaultSerializer, rq.serializers.PickleSerializer,
    rq.serializers.SERIALIZER_ALIASES["pickle"], resolve_serializer(), resolve_serializer("pickle"),
):
    assert each.dumps({"a": 1}) == b'{"a": 1}', each
    try:
        each.loads(bomb)
    except (ValueError, UnicodeDecodeError):
        continue
    sys.exit(f"{each} read a pickle")
names = (rq.serializers.DefaultSerializer, rq.serializers.PickleSerializer, resolve_serializer("pickle"))
assert set(names) == {rq.serializers.JSONSerializer}, names
"""


class Bomb:
    """Makes a directory where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path, ...]]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("module", REACHING_RQ)
def test_a_process_that_reached_rq_through_this_module_alone_unpickles_nothing(module: str, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    command = [sys.executable, "-c", READ, module, str(tmp_path / "bomb")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "boom").exists()


def test_the_modules_that_reach_rq_are_found() -> None:
    assert {"worker.retraining.queue", "worker.retraining.rq_worker", "worker.console.jobs"} <= set(REACHING_RQ)
