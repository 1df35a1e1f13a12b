"""The listing of dead letters that a request asks for: which, in which order, from where on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast, get_args
from urllib.parse import parse_qsl

from flask import abort

from trading_system.ml_refinement.storage import DeadLetterRow, FeatureDatabase, Filter
from trading_system.ml_refinement.storage.tables.dead_letters import OrderBy
from worker.console.zones import bound_in_utc

#: So many of a state are looked at, the newest: no page takes longer because more of them are kept.
NEWEST: Final = 20_000
PAGE_ROWS: Final = 50
STATES: Final = ("open", "replayed", "discarded", "any")
_CONDITIONS: Final = ("reason", "stream", "symbol", "fingerprint", "signal_id", "since", "until", "text")
_ORDERS: Final = (*get_args(OrderBy), *(f"-{name}" for name in get_args(OrderBy)))
_FIRST_ORDER: Final = "-id"
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Listing:
    """A filter, and an order: the name of a column, the largest first with a `-` before it."""

    wanted: Filter
    order: str = _FIRST_ORDER

    @classmethod
    def asked_for(cls, given: Mapping[str, str]) -> Listing:
        """What a request's parameters ask for; `status=any` means every status."""
        status, order = given.get("status") or "open", given.get("order") or _FIRST_ORDER
        if status not in STATES:
            abort(400, "There is no such state.")
        if order not in _ORDERS:
            abort(400, "There is no such order.")
        conditions: dict[str, Any] = {
            name: value for name in _CONDITIONS if (value := (given.get(name) or "").strip()[:_LONGEST])
        }
        for name in ("since", "until"):
            if name in conditions:
                conditions[name] = bound_in_utc(conditions[name], end=name == "until")
        return cls(Filter(**conditions, status=None if status == "any" else cast(Any, status)), order)

    @classmethod
    def remembered(cls, query: str) -> Listing:
        """The listing of an address's query, as an action's form keeps it."""
        return cls.asked_for(dict(parse_qsl(query)))

    def parameters(self) -> dict[str, str]:
        """What asks for this listing again."""
        found = {name: str(value) for name in _CONDITIONS if (value := getattr(self.wanted, name))}
        if self.wanted.status != "open":
            found["status"] = self.wanted.status or "any"
        return found if self.order == _FIRST_ORDER else found | {"order": self.order}

    @property
    def is_filtered(self) -> bool:
        """Whether anything but the state was asked for."""
        return any(getattr(self.wanted, name) for name in _CONDITIONS)

    def newest(self, store: FeatureDatabase) -> Listing:
        """The same among the newest of the state."""
        above = store.dead_letters.nth_newest(NEWEST + 1, self.wanted.status)
        return replace(self, wanted=replace(self.wanted, above=above))

    def page(self, store: FeatureDatabase, *, after: int | None, before: int | None) -> ListingPage:
        """The rows after a dead letter, or before it; the first page with neither."""
        backwards = before is not None and after is None
        start = before if backwards else after
        rows = store.dead_letters.page(
            self.wanted,
            limit=PAGE_ROWS + 1,
            order_by=cast(OrderBy, self.order.removeprefix("-")),
            descending=self.order.startswith("-"),
            start=start,
            backwards=backwards,
        )
        more = len(rows) > PAGE_ROWS
        if backwards:
            return ListingPage(rows[-PAGE_ROWS:], earlier=more, later=True)
        return ListingPage(rows[:PAGE_ROWS], earlier=start is not None, later=more)


@dataclass(frozen=True, slots=True)
class ListingPage:
    """Some rows of a listing, and whether there are others before and after them."""

    rows: list[DeadLetterRow]
    earlier: bool
    later: bool

    @property
    def before(self) -> int | None:
        """What a request for the page before this one names."""
        return self.rows[0].id if self.rows and self.earlier else None

    @property
    def after(self) -> int | None:
        """What a request for the page after this one names."""
        return self.rows[-1].id if self.rows and self.later else None
