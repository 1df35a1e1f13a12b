"""Break each line of the list in a copy of the tree, and see that the tests beside it notice.

python -m tests.mutants                     # all of them
python -m tests.mutants --turn              # about ten of them, by the day
python -m tests.mutants --only "9:"         # those whose rule or file holds the text
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue
from zlib import crc32

from tests.mutants.kept import Line, broken, faults, kept_lines

ROOT = Path(__file__).resolve().parents[2]
#: So many runs of the checks of a change break all of the lines.
TURNS = 24
#: Tests wait for what has to happen, and give up after minutes: one that waits so long has noticed.
HANGS_AFTER_S = 300.0
PASSED, FAILED, HANGS = 0, 1, None


def todays(lines: Sequence[Line], day: int) -> list[Line]:
    """About ten of the lines, others each day, until all have had their turn; a line that is added moves no other."""
    return [line for line in lines if crc32(f"{line.file}\0{line.text}\0{line.broken}".encode()) % TURNS == day % TURNS]


def copied(directory: Path) -> Path:
    """A copy of the tree as it lies here, changes that are not committed included, without what it has made."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in names:
        if name and (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    return directory


def run_tests(tree: Path, tests: Sequence[str], *, hangs_after_s: float = HANGS_AFTER_S) -> tuple[int | None, str]:
    """The status of pytest on the copy, None where it hangs; and the end of what it said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as started:  # fmt: skip
        try:
            said, _ = started.communicate(timeout=hangs_after_s)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)  # what it forked hangs too, and would be left
            return HANGS, "it hangs"
    return started.returncode, "\n".join(said.splitlines()[-12:])


def is_the_copy(tree: Path) -> bool:
    """Whether what the tests import is the copy, not the tree that is installed."""
    code = "import worker, trading_system; print(worker.__file__, trading_system.__file__)"
    environment = os.environ | {"PYTHONPATH": str(tree)}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, text=True, check=True
    ).stdout
    return all(Path(file).is_relative_to(tree) for file in said.split())


def judge(line: Line, tree: Path) -> str:
    """Empty where a test noticed that the line was broken; else what is wrong."""
    path = tree / line.file
    text = path.read_text(encoding="utf-8")
    path.write_text(broken(text, line), encoding="utf-8")
    try:
        status, said = run_tests(tree, line.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    if status in (FAILED, HANGS):
        return ""
    return "no test noticed" if status == PASSED else f"the tests could not be run ({status}): {said}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turn", action="store_true", help="about ten lines, by the day")
    parser.add_argument("--day", type=int, default=datetime.now(UTC).date().toordinal(), help="the day of --turn")
    parser.add_argument("--area", action="append", help="lines of this list alone")
    parser.add_argument("--only", default="", help="lines whose rule or file holds this text")
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests with nothing broken first")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    lines = kept_lines()
    if wrong := faults(lines, ROOT):
        sys.stdout.write("\n".join(wrong) + "\n")
        return 2
    lines = [line for line in lines if not args.area or line.area in args.area]
    chosen = [line for line in lines if args.only in line.rule or args.only in line.file]
    if args.turn:
        chosen = todays(chosen, args.day)
        sys.stdout.write(f"the lines of day {args.day}, of {len(lines)}; again: --turn --day {args.day}\n")
    survivors = run(chosen, args.processes, unchecked=args.unchecked)
    for line, why in survivors:
        sys.stdout.write(f"\n{line.file}: {line.rule}\n    {line.text.strip()}\n    {why}\n")
    return 1 if survivors else 0


def run(lines: Sequence[Line], processes: int, *, unchecked: bool = False) -> list[tuple[Line, str]]:
    """Break each; those that nobody noticed, with what is wrong. Prints the table of areas."""
    began, noticed, seconds = time.monotonic(), Counter[str](), Counter[str]()
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        trees: Queue[Path] = Queue()
        for number in range(processes):
            trees.put(copied(Path(directory).resolve() / str(number)))
        first = trees.queue[0]
        if not is_the_copy(first):
            raise RuntimeError(f"the tests would import another tree than {first}")
        tests = [] if unchecked else list(dict.fromkeys(test for line in lines for test in line.tests))
        status, said = run_tests(first, tests, hangs_after_s=HANGS_AFTER_S * len(tests)) if tests else (PASSED, "")
        if status != PASSED:
            raise RuntimeError(f"the tests fail with nothing broken: {said}")

        def one(line: Line) -> tuple[Line, str, float]:
            tree, at = trees.get(), time.monotonic()
            try:
                return line, judge(line, tree), time.monotonic() - at
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(processes) as pool:
            for line, why, took in pool.map(one, lines):
                noticed[line.area] += not why
                sys.stderr.write("." if not why else "!")
                sys.stderr.flush()
                seconds[line.area] += int(1000 * took)
                if why:
                    survivors.append((line, why))
                    sys.stdout.write(f"not noticed: {line.file}: {line.rule}\n")
                    sys.stdout.flush()
    sys.stdout.write("| lines of | broken | noticed | s each |\n|---|---|---|---|\n")
    for area, count in Counter(line.area for line in lines).items():
        sys.stdout.write(f"| {area} | {count} | {noticed[area]} | {seconds[area] / 1000 / count:.1f} |\n")
    total = sum(noticed.values())
    sys.stdout.write(f"| **all** | **{len(lines)}** | **{total}** | {time.monotonic() - began:.0f} s together |\n")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
