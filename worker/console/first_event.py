"""A signal and its outcome to begin with, made for the moment they are asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
from flask import Blueprint, Response

blueprint = Blueprint("first_event", __name__)

#: Enough for every feature of the largest set.
_BARS = 280


@blueprint.get("/first-event.jsonl")
def first_event() -> Response:
    """Two lines for `refinery publish`. Changes nothing."""
    lines = b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in _events(datetime.now(UTC)))
    headers = {"Content-Disposition": "attachment; filename=first-event.jsonl"}
    return Response(lines, mimetype="application/x-ndjson", headers=headers)


def _events(now: datetime) -> tuple[dict[str, object], dict[str, object]]:
    now = now.replace(microsecond=0)
    known = now - timedelta(hours=1)
    days = [known - timedelta(days=_BARS - day) for day in range(_BARS)]
    moves = np.random.default_rng(1).normal(0.0003, 0.012, _BARS)
    close = np.round(100 * np.exp(np.cumsum(moves)), 2)
    signal_id = f"first-{now:%Y%m%d-%H%M%S}"
    last = float(close[-1])
    signal = {
        "type": "signal.created",
        "signal_id": signal_id,
        "timestamp": known.isoformat(),
        "symbol": "ACME",
        "asset_class": "equity",
        "signal_type": "breakout",
        "direction": "long",
        "technical_score": 7.5,
        "entry_price": last,
        "target_price": round(last * 1.06, 2),
        "stop_price": round(last * 0.97, 2),
        "bars": {
            "timestamp": [day.isoformat() for day in days],
            "open": close.tolist(),
            "high": np.round(close * 1.008, 2).tolist(),
            "low": np.round(close * 0.992, 2).tolist(),
            "close": close.tolist(),
            "volume": [1_000_000.0] * _BARS,
        },
    }
    outcome = {
        "type": "trade.closed",
        "signal_id": signal_id,
        "closed_at": now.isoformat(),
        "r_multiple": 1.4,
        "exit_reason": "target",
    }
    return signal, outcome
