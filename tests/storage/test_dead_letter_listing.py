"""Listings of dead letters: in any order, forwards and back, searched, and by the index however large payloads are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from trading_system.ml_refinement.storage import FeatureDatabase, Filter, NewDeadLetter
from trading_system.ml_refinement.storage.tables import dead_letters as table

ORDERS = ("id", "last_seen", "reason", "signal_id", "attempts")


def letter(number: int, error: str | None = None) -> NewDeadLetter:
    return NewDeadLetter(
        "signals.created", f"{number}-0", ("schema", "lookahead", "bad_json")[number % 3],
        error or f"what is wrong with number {number}", b"x" * 5_000, 1 + number % 4, "0", f"print-{number % 5}",
        signal_id=None if number % 6 == 0 else f"s-{number % 7}", symbol="ACME" if number % 2 else "BRK.B",
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureDatabase]:
    with FeatureDatabase(tmp_path / "features.db") as found:
        found.initialize()
        found.dead_letters.add([letter(number) for number in range(1, 38)])
        found.dead_letters.mark_discarded(5, "seen", actor="t")
        yield found


@pytest.mark.parametrize("order_by", ORDERS)
@pytest.mark.parametrize("descending", [True, False])
def test_pages_follow_each_other_without_a_gap_and_lead_back(
    store: FeatureDatabase, order_by: table.OrderBy, descending: bool
) -> None:
    wanted = Filter()

    def page(start: int | None, *, backwards: bool = False) -> list[int]:
        rows = store.dead_letters.page(
            wanted, limit=10, order_by=order_by, descending=descending, start=start, backwards=backwards
        )
        return [row.id for row in rows]

    pages = [page(None)]
    while found := page(pages[-1][-1]):
        pages.append(found)
    everything = [number for found in pages for number in found]
    rows = {row.id: row for row in store.dead_letters.find(wanted)}
    key = lambda number: (getattr(rows[number], order_by) or "", number)  # noqa: E731
    assert everything == sorted(rows, key=key, reverse=descending)
    assert [len(found) for found in pages] == [10, 10, 10, 6]
    for earlier, later in pairwise(pages):
        assert page(later[0], backwards=True) == earlier
    assert page(pages[0][0], backwards=True) == []


def test_text_is_found_in_errors_ids_and_symbols_as_it_stands(store: FeatureDatabase) -> None:
    store.dead_letters.add([letter(99, "100 % wrong_number!"), letter(98, "100 x wrongZnumber!")])

    def found(text: str) -> int:
        return store.dead_letters.count(Filter(text=text, status=None))

    assert found("NUMBER 17") == 1
    assert found("100 % wrong_") == 1
    assert found("number!") == 2
    assert found("brk.b") == len([n for n in (*range(1, 38), 98, 99) if n % 2 == 0])
    assert found("lookahead") == len([n for n in (*range(1, 38), 98, 99) if n % 3 == 1])
    assert found("37-0") == 1
    assert found("nothing of the kind") == 0


def test_a_bound_leaves_out_what_is_older_and_what_came_since(store: FeatureDatabase) -> None:
    above = store.dead_letters.nth_newest(11, "open")
    assert above == 27
    assert store.dead_letters.count(Filter(above=above)) == 10
    assert store.dead_letters.count(Filter(above=above, up_to=30)) == 3
    assert [row.id for row in store.dead_letters.find(Filter(above=above, up_to=30))] == [28, 29, 30]
    assert sum(group.count for group in store.dead_letters.groups(wanted=Filter(above=above))) == 10
    assert store.dead_letters.nth_newest(100, "open") == 0
    assert store.dead_letters.nth_newest(37, None) == 1


@pytest.mark.parametrize("status", ["open", None])
def test_no_listing_reads_across_payloads(store: FeatureDatabase, status: table.Status | None) -> None:
    where, params = table._indexed(Filter(status=status, text="x", symbol="ACME", above=3))
    statements = [
        (table.PAGE.format(where=where, limit="ORDER BY id DESC LIMIT 5"), params),
        (table.PAGE.format(where=where, limit="ORDER BY attempts, id LIMIT 5"), params),
        (f"SELECT count(*) FROM dead_letters WHERE {where}", params),  # noqa: S608 - ours
        (table.GROUPS.format(where=where), [*params, 5]),
    ]
    for sql, bound in statements:
        plan = " ".join(str(row[3]) for row in store.connection.query(f"EXPLAIN QUERY PLAN {sql}", bound))
        assert "USING COVERING INDEX idx_dead_listing (status=? AND id>?)" in plan, plan
