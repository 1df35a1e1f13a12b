"""JSON as the only serializer that RQ has in this process, from the moment this module is imported.

RQ unpickles wherever no serializer is handed on: executions, `Worker.all`, its dashboard, its cron. RQ's own commands
import a module that they are told to: `rq-dashboard --config worker.retraining.json_only`.
"""

from __future__ import annotations

from typing import Any

import rq.serializers
from rq.serializers import JSONSerializer


def _forbid_pickle() -> None:
    plain: Any = rq.serializers
    # Whoever has the class already keeps it: so its methods are replaced, and not only its name.
    plain.DefaultSerializer.dumps = staticmethod(JSONSerializer.dumps)
    plain.DefaultSerializer.loads = staticmethod(JSONSerializer.loads)
    plain.DefaultSerializer = plain.PickleSerializer = JSONSerializer
    plain.SERIALIZER_ALIASES["pickle"] = JSONSerializer


# At import, because a process that can reach RQ through us must not be able to forget it.
_forbid_pickle()
