"""Signals looked for by what they were and what came of them, exported safely, and each with its price and reasons."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.console_installation import ConsoleInstallation
from tests.support.valid_events import AT, bars, signal, text
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.tables.outcomes import OutcomeRow
from trading_system.ml_refinement.storage.tables.signals import LOOKED_AT, ORDER, FoundPlace, FoundSignal, SignalFilter
from trading_system.ml_refinement.storage.times import text_from_us
from trading_system.simulation.market_data import load_stocks, write_directory
from worker.console.signals import pages
from worker.console.signals.chart import PricePlan, known_bars, price_chart, read_event
from worker.console.signals.export import csv_lines, safe_cell
from worker.market_data.directory import bars_to_look_at
from worker.settings.schema import load_settings


@pytest.fixture
def client(flask_app: Flask) -> FlaskClient:
    return flask_app.test_client()


def ids(page: str) -> list[str]:
    return re.findall(r'href="/signals/([^"?]+)"', page)


def table(client: FlaskClient, query: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(client.get(f"/signals.csv?{query}").get_data(as_text=True))))


def test_signals_are_filtered_by_kind_outcome_model_and_score(client: FlaskClient, place: ConsoleInstallation) -> None:
    rows = table(client, "")
    assert len(rows) == 330
    scored = [row for row in rows if row["quality_score"]]
    middle = sorted(float(row["quality_score"]) for row in scored)[len(scored) // 2]
    won = {row["signal_id"] for row in rows if row["r_multiple"] and float(row["r_multiple"]) > 0}
    lost = {row["signal_id"] for row in rows if row["r_multiple"] and float(row["r_multiple"]) <= 0}
    assert {row["signal_id"] for row in table(client, "outcome=won")} == won
    assert {row["signal_id"] for row in table(client, "outcome=lost")} == lost
    assert table(client, "outcome=open") == [row for row in rows if not row["r_multiple"]]
    assert table(client, f"score_from={middle}") == [row for row in scored if float(row["quality_score"]) >= middle]
    assert table(client, f"score_to={middle}") == [row for row in scored if float(row["quality_score"]) <= middle]
    assert table(client, f"model_id={place.models[1]}") == [row for row in rows if row["model_id"] == place.models[1]]
    assert len(table(client, "kind=equity")) == len(table(client, "kind=breakout")) == 330
    assert table(client, "kind=crypto") == []
    page = client.get("/signals?outcome=won&symbol=ACME").get_data(as_text=True)
    assert set(ids(page)) <= won
    assert 'value="ACME"' in page
    assert "/signals.csv?" in page


def test_pages_lead_through_all_that_match_however_few_are_looked_at_at_once(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MOST_LOOKED_AT", 70)
    address, seen, steps = "/signals?outcome=won", [], 0
    while address:
        page = client.get(address).get_data(as_text=True)
        seen += ids(page)
        found = re.search(r'href="([^"]+before=\d+[^"]*)"', page)
        address = found[1].replace("&amp;", "&") if found else ""
        steps += 1
    assert seen == [row["signal_id"] for row in table(client, "outcome=won")]
    assert len(seen) == len(set(seen))
    assert steps >= 5


@pytest.mark.parametrize("query", ["outcome=maybe", "score_from=high", "score_to=nan", "since=soon"])
def test_a_filter_that_says_nothing_is_refused_and_kept(client: FlaskClient, query: str) -> None:
    for path in ("/signals", "/signals.csv"):
        answer = client.get(f"{path}?{query}&symbol=KEPT")
        assert answer.status_code == 400
        assert 'value="KEPT"' in answer.get_data(as_text=True)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =cmd|' /C calc'!A0"])
def test_no_cell_of_a_producer_s_is_a_formula(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    row = FoundSignal(1, text, "2024-01-01T00:00:00.000000Z", text, text, text, 0.5, -1.25, True, text)
    head, line = csv.reader(io.StringIO("".join(csv_lines([row]))))
    cells = dict(zip(head, line, strict=True))
    for name in ("signal_id", "symbol", "asset_class", "signal_type", "model_id"):
        assert cells[name].startswith("'"), name
    assert cells["r_multiple"] == "-1.25", "a number stays one"


def test_plain_cells_stay_as_they_are() -> None:
    assert [safe_cell(text) for text in ("s-1", "BRK.B", "a=b", None)] == ["s-1", "BRK.B", "a=b", ""]


def test_a_signal_shows_its_price_its_plan_and_why_it_scored_so(client: FlaskClient) -> None:
    page = client.get("/signals/s-300").get_data(as_text=True)
    assert "Price before the signal" in page
    for words in ("entry 100", "stop 95", "target 110"):
        assert f">{words}<" in page, words
    reasons = page.split("Why this score")[1].split("</table>")[0]
    assert len(re.findall(r'<td class="mono">([a-z0-9_]+)</td>', reasons)) > 3
    assert "closed signals with the nearest scores" in page


def test_a_signal_without_bars_or_score_says_so(client: FlaskClient) -> None:
    page = client.get("/signals/s-3").get_data(as_text=True)
    assert "cold start" in page.split("Why this score")[1]


def test_bars_of_the_market_data_directory_are_shown_up_to_the_signal_where_none_came_with_it(tmp_path: Path) -> None:
    write_directory({"MSFT": load_stocks()["MSFT"].iloc[:40]}, tmp_path / "market")
    settings = load_settings(state_dir=tmp_path / "var", market_data_dir=tmp_path / "market")
    said = {"signal_id": "s", "timestamp": "2000-04-05T21:00:00Z", "symbol": "MSFT", "asset_class": "equity"}
    event = read_event(json.dumps({**said, "signal_type": "breakout"}).encode())
    assert event is not None
    bars = known_bars(settings, event)
    assert bars is not None
    assert 0 < len(bars) < 40
    assert bars.timestamp[-1] <= event.timestamp_us
    assert "Price before the signal" in str(price_chart(event, bars, None))
    assert bars_to_look_at(settings, "MSFT", most_bytes=100) is None
    assert bars_to_look_at(settings, "NONE", most_bytes=10**6) is None


def test_where_a_trade_ended_follows_from_what_was_at_risk() -> None:
    assert PricePlan(100.0, 95.0, 110.0).exit(2.0) == 110.0
    assert PricePlan(100.0, 95.0, 110.0).exit(-1.0) == 95.0
    assert PricePlan(100.0, 104.0, 90.0).exit(1.0) == 96.0, "short"
    assert PricePlan(None, 95.0, None).exit(1.0) is None
    assert PricePlan(100.0, None, None).exit(1.0) is None


@pytest.mark.parametrize("hours", [1, 5, 30, 24 * 9, 24 * 40, 24 * 200, 24 * 500, 24 * 900, 24 * 2_500, 24 * 9_000])
def test_a_chart_has_times_that_can_be_read_however_long_the_trade_was_open(
    hours: int, recwarn: pytest.WarningsRecorder
) -> None:
    event = read_event(text(signal(bars=bars(2, last=AT))))
    assert event is not None
    closed = text_from_us(event.timestamp_us + hours * 3_600_000_000)
    drawn = price_chart(event, event.bars, OutcomeRow(event.signal_id, 0, closed, 1.0))
    assert drawn is not None
    assert 2 <= len(set(re.findall(r'id="xtick_\d+"', drawn))) <= 7
    assert not recwarn.list


def test_a_look_reads_no_more_signals_than_it_may_and_goes_on_from_there(place: ConsoleInstallation) -> None:
    with FeatureDatabase(place.settings.store_place, read_only=True) as store:
        nothing = SignalFilter(kind="nothing")
        looked = store.signals.look_through(nothing, limit=50, most=100)
        first = store.signals.find(SignalFilter(), limit=101)
        assert looked == ([], first[99].id, 100)
        assert store.signals.look_through(nothing, limit=50, most=1000)[:2] == ([], None)
        hasty = store.signals.look_through(nothing, limit=50, most=1000, within_s=0.0)
        assert hasty == ([], first[99].id, 100), "it looked once"


FILTERS = (
    SignalFilter(),
    SignalFilter(symbol="ACME"),
    SignalFilter(signal_id="s-1"),
    SignalFilter(signal_id="s-", symbol="ACME", outcome="won"),
    SignalFilter(signal_id="s-2", since="2020-01-01", until="2099-01-01"),
    SignalFilter(since="2020-01-01"),
    SignalFilter(until="2099-01-01", symbol="ACME", kind="breakout"),
)


@pytest.mark.parametrize("wanted", FILTERS)
@pytest.mark.parametrize("limit", [1, 7])
def test_looks_that_go_on_find_each_signal_once_in_one_order(
    place: ConsoleInstallation, wanted: SignalFilter, limit: int
) -> None:
    with FeatureDatabase(place.settings.store_place, read_only=True) as store:
        whole = store.signals.find(wanted, limit=1000)
        assert [getattr(row, wanted.order) for row in whole] == sorted(
            (getattr(row, wanted.order) for row in whole), reverse=True
        )
        seen, before = [], None
        while True:
            look = store.signals.look_through(wanted, limit=limit, before=before, most=10)
            assert len(look.rows) <= limit
            seen += look.rows
            if (before := look.more) is None:
                break
        assert seen == whole
        assert len(whole) > 50


@pytest.mark.parametrize("wanted", FILTERS)
@pytest.mark.parametrize("goes_on", [False, True])
def test_an_index_gives_the_order_of_a_look_and_nothing_is_sorted(
    place: ConsoleInstallation, wanted: SignalFilter, goes_on: bool
) -> None:
    with FeatureDatabase(place.settings.store_place, read_only=True) as store:
        row = store.signals.find(SignalFilter(), limit=1)[0]
        where, params = wanted.where(FoundPlace(row.id, row.timestamp, row.signal_id) if goes_on else None)
        sql = LOOKED_AT.format(where=where, order=ORDER[wanted.order])
        plan = " ".join(row[3] for row in store.connection.query(f"EXPLAIN QUERY PLAN {sql}", (*params, 10)))
        assert "B-TREE" not in plan, plan
        assert "SEARCH" in plan or wanted == SignalFilter(), plan
