"""A signal and its outcome, from Python: checked before they are sent, kept in an outbox until Redis has them."""

import os
from datetime import UTC, datetime, timedelta

from worker.client import RefineryClient

now = datetime.now(UTC)
url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
with RefineryClient(url, outbox=os.environ.get("OUTBOX", "outbox.db")) as client:
    client.signal_created(
        signal_id="python-1",
        timestamp=now - timedelta(days=1),
        symbol="ACME",
        asset_class="equity",
        signal_type="breakout",
        conviction="HIGH",
        entry_price=128.0,
        target_price=138.0,
        stop_price=123.0,
        features={"funding_rate": 0.0001},  # learned from where REFINERY_ML__FEATURES__PROVIDED lists it
    )
    client.trade_closed(signal_id="python-1", closed_at=now, r_multiple=1.4, exit_reason="target")
    print(client.flush(), "events still in the outbox")
