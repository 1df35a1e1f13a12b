"""What was served in a range of time, of a symbol and of a kind; and two models on the same signals."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.console_installation import ConsoleInstallation
from trading_system.ml_refinement.evaluation.rescored import NotRescored, compare_rescored
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.models.fitting import FitPlan
from trading_system.ml_refinement.monitoring.served import read_served, served_figures
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.console.queries import ConsoleQueries
from worker.console.served_parts import RANGES, ServedPart, read_longest, read_view


@pytest.fixture
def client(flask_app: Flask) -> FlaskClient:
    return flask_app.test_client()


@pytest.fixture
def queries(flask_app: Flask) -> ConsoleQueries:
    found: ConsoleQueries = flask_app.extensions["refinery"]
    return found


def test_a_part_has_the_rows_of_its_days_symbol_and_kind_and_their_figures(queries: ConsoleQueries) -> None:
    longest = read_longest(queries, train_window_days=252)
    whole = longest.newest(126, train_window_days=252)
    assert len(whole.record) == 170
    newest = int(whole.record.entered_us.max())
    week = longest.newest(7, train_window_days=252)
    assert len(week.record) == int((whole.record.entered_us > newest - 7 * 86_400_000_000).sum()) > 0
    with FeatureDatabase(queries.settings.store_place) as store:
        for name in whole.record.signal_ids[:60].tolist():
            store.connection.run("UPDATE feature_vectors SET symbol = 'OTHER' WHERE signal_id = ?", (name,))
        try:
            again = read_longest(queries, train_window_days=252).newest(126, train_window_days=252)
            part = ServedPart(symbol="OTHER").of(again)
            assert part.signal_ids.tolist() == whole.record.signal_ids[:60].tolist()
            assert served_figures(part) == served_figures(whole.record.part(0, 60))
            first, other = again.groups("symbol")
            assert (first.name, first.rows, other.name, other.rows) == ("ACME", 110, "OTHER", 60)
            assert other.win_rate == float((part.r > 0).mean())
            figures = served_figures(part)
            for name in ("mean_r", "log_loss", "base_rate_log_loss", "lift"):
                assert getattr(other, name) == getattr(figures, name), name
        finally:
            store.connection.run("UPDATE feature_vectors SET symbol = 'ACME' WHERE symbol = 'OTHER'")
    assert len(ServedPart(symbol="NONE").of(whole)) == 0
    assert len(ServedPart(kind="breakout").of(whole)) == 170


def test_every_range_is_as_if_it_had_been_read_by_itself(queries: ConsoleQueries) -> None:
    window = queries.settings.to_ml_config().training.train_window_days
    longest = read_longest(queries, train_window_days=window)
    for days in RANGES:
        found = longest.newest(days, train_window_days=window).record
        alone = read_served(queries.store, train_window_days=window, days=days)
        assert found.signal_ids.tolist() == alone.signal_ids.tolist()
        assert found.block_us == alone.block_us
        assert served_figures(found) == served_figures(alone)
        assert read_view(queries, ServedPart(days)).figures == served_figures(alone)


def test_the_page_shows_the_part_that_is_asked_for(
    client: FlaskClient, queries: ConsoleQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = client.get("/monitoring?days=30&symbol=ACME&kind=breakout").get_data(as_text=True)
    assert 'value="ACME"' in page
    assert re.search(r'<option value="30" selected>', page)
    later = set(re.findall(r'id="diagram-(\w+)" data-later="([^"]+)"', page))
    assert {name for name, _ in later} == {"reliability", "deciles", "log_loss", "calibration", "lift"}
    groups: dict[str, set[str]] = {}
    for name, address in later:
        groups.setdefault(html.unescape(address), set()).add(name)
    assert sorted(map(sorted, groups.values())) == [["calibration", "lift", "log_loss"], ["deciles", "reliability"]]
    left = {name for name, _ in later}
    for address, names in groups.items():
        shown = client.get(address).get_data(as_text=True)
        left -= names
        assert set(re.findall(r'id="diagram-(\w+)" data-later', shown)) == left
        for name in names:
            assert re.search(rf'id="diagram-{name}">.*?<svg class="chart"', shown, re.S)
    again = client.get("/monitoring?days=30&symbol=ACME&kind=breakout").get_data(as_text=True)
    assert again.count('<svg class="chart"') >= 5, "what is drawn is there from now on"
    monkeypatch.setattr(queries, "version", lambda: "other data")
    assert "data-later" not in client.get("/monitoring?days=30&symbol=ACME&kind=breakout").get_data(as_text=True)
    monkeypatch.setattr("worker.console.queries._FRESH_S", -1.0)
    assert "data-later" in client.get("/monitoring?days=30&symbol=ACME&kind=breakout").get_data(as_text=True)
    monkeypatch.undo()
    assert "newest 170 signals" in page
    empty = client.get("/monitoring?symbol=NONE").get_data(as_text=True)
    assert "newest 0 signals" in empty
    assert empty.count('<svg class="chart"') <= 1, "drift is of all signals"
    for days in RANGES:
        assert client.get(f"/monitoring?days={days}").status_code == 200
    assert client.get("/monitoring?days=8").status_code == 400


def test_both_models_are_rescored_on_the_signals_that_neither_knew(
    client: FlaskClient, place: ConsoleInstallation
) -> None:
    first, second = place.models
    with FeatureDatabase(place.settings.store_place, read_only=True) as store:
        registry = ModelRegistry.from_config(place.settings.to_ml_config(), store)
        found = compare_rescored(store, registry, first, second, train_window_days=126)
        end = store.models.get(first)
        assert end is not None
        model = registry.load(first)
        rows = store.vectors.training_matrix(feature_version=model.feature_version, names=model.feature_names)
        later = np.array([stamp > 1_709_596_800_000_000 for stamp in rows.timestamp_us])  # 2024-03-05T00:00:00Z
        assert end.metadata.train_end_date == "2024-03-05T00:00:00.000000Z"
        assert (found.all.rows, found.unseen.rows) == (len(rows.r), int(later.sum()))
        assert found.trained_on == (int((~later).sum()),) * 2
        p = model.predict_proba(rows.X, rows.signal_types)[later]
        won = rows.r[later] > 0
        assert found.unseen.log_loss[0] == pytest.approx(float(-np.log(np.where(won, p, 1 - p)).mean()))
        newest = compare_rescored(store, registry, first, second, train_window_days=126, newest=40)
        assert newest.all.rows <= 40
        same = compare_rescored(store, registry, first, first, train_window_days=126)
        assert same.unseen.margin == 0.0
    page = client.get(f"/models/compare?a={first}&b={second}").get_data(as_text=True)
    assert "neither was trained on" in page
    assert f">{found.unseen.rows}<" in page


def test_models_of_other_vectors_are_not_rescored_and_the_page_says_why(
    client: FlaskClient, place: ConsoleInstallation
) -> None:
    rng = np.random.default_rng(3)
    model = SignalQualityModel(min_samples=50)
    X = rng.normal(size=(200, 3))
    model.fit(X, X[:, 0] + rng.normal(size=200), feature_names=("a", "b", "c"), plan=FitPlan.by_rows(200))
    model.feature_version = "another-1"
    model.set_training_period("2024-01-01T00:00:00.000000Z", "2024-03-05T00:00:00.000000Z")
    with FeatureDatabase(place.settings.store_place) as store:
        registry = ModelRegistry.from_config(place.settings.to_ml_config(), store)
        registry.register(model)
        with pytest.raises(NotRescored, match="different feature versions"):
            compare_rescored(store, registry, place.models[0], model.model_id, train_window_days=126)
    page = client.get(f"/models/compare?a={place.models[0]}&b={model.model_id}").get_data(as_text=True)
    assert "They are not rescored" in page
