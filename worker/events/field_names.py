"""What the fields of the input events are called, for those who have no use for the models, which take long to build.

A test holds the names, and which of them are numbers, to the models.
"""

from __future__ import annotations

SIGNAL_NUMBERS = (
    "technical_score",
    "news_score",
    "combined_score",
    "entry_price",
    "target_price",
    "stop_price",
    "position_size_pct",
)
TRADE_NUMBERS = ("r_multiple", "return_pct", "revision")

#: A text, a time or a number each.
SINGLE_SIGNAL_FIELDS = (
    "signal_id",
    "timestamp",
    "symbol",
    "asset_class",
    "signal_type",
    "direction",
    "conviction",
    *SIGNAL_NUMBERS,
)
SINGLE_TRADE_FIELDS = ("signal_id", "closed_at", *TRADE_NUMBERS, "exit_reason")

SIGNAL_FIELDS = frozenset((*SINGLE_SIGNAL_FIELDS, "bars", "benchmark", "news", "features", "schema_version"))
TRADE_FIELDS = frozenset((*SINGLE_TRADE_FIELDS, "schema_version"))
NEWS_FIELDS = frozenset(("published_at", "sentiment", "relevance", "source", "headline"))
