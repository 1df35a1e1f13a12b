"""A signal and its outcome, from Python: checked before they are sent, kept in an outbox until Redis has them.

Without REDIS_URL they go to the server of a `refinery up` that was started in this directory.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from worker.client import RefineryClient

now = datetime.now(UTC)
then = now - timedelta(days=1)
closes = [100 + day / 10 for day in range(60)]
bars = {
    "timestamp": [then - timedelta(days=59 - day) for day in range(60)],
    "open": closes,
    "high": [close + 1 for close in closes],
    "low": [close - 1 for close in closes],
    "close": closes,
    "volume": [1_000_000] * 60,
}
url = os.environ.get("REDIS_URL") or f"unix://{Path('var/valkey/valkey.sock').absolute()}"
with RefineryClient(url, outbox=os.environ.get("OUTBOX", "outbox.db")) as client:
    client.signal_created(
        signal_id="python-1",
        timestamp=then,
        symbol="ACME",
        asset_class="equity",
        signal_type="breakout",
        conviction="HIGH",
        entry_price=106.0,
        target_price=116.0,
        stop_price=101.0,
        bars=bars,  # or none, where REFINERY_MARKET_DATA_DIR has them
        features={"funding_rate": 0.0001},  # learned from where REFINERY_ML__FEATURES__PROVIDED lists it
    )
    client.trade_closed(signal_id="python-1", closed_at=now, r_multiple=1.4, exit_reason="target")
    print(client.flush(), "events still in the outbox")
