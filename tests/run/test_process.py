"""What a process that works in batches asks of its interpreter."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, weakref
from worker.run.process import keep_between_batches

class Node:
    pass

before = [Node() for _ in range(1000)]
keep_between_batches()
assert gc.get_freeze_count() > 1000, "what was there before is looked at again and again"

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

dropped = [cycle() for _ in range(20_000)]
left = sum(one() is not None for one in dropped)
assert left <= 10_000, f"{left} of 20,000 cycles were never collected"
print("sound")
"""


def test_what_was_there_before_is_left_alone_and_later_garbage_is_still_collected() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "sound\n", done.stderr
