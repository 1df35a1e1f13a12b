"""A store that is copied to the other engine and back says the same, row by row, and goes on there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.postgres_server import needs_postgres
from tests.support.rows import contents, metadata, outcome, plain, prediction, vector
from trading_system.ml_refinement.storage import FeatureDatabase, NewDeadLetter, StoreError
from trading_system.ml_refinement.storage.shared import copying
from trading_system.ml_refinement.storage.shared.copying import TABLES, DifferentRows, copy_store
from trading_system.ml_refinement.storage.tables.duplicates import DuplicateRow

pytestmark = needs_postgres
SCHEMA_ONLY = {"ml_schema_migrations", "leases"}


def opened(place: str | Path) -> FeatureDatabase:
    store = FeatureDatabase(place)
    store.upgrade()
    store.initialize()
    return store


def fill(db: FeatureDatabase, first: int = 0, number: int = 60) -> None:
    """Something in nearly every table."""
    names = ("a", "b")
    rows = [vector(f"s{at}") for at in range(first, first + number)]
    values = np.linspace(-1.0, 1.0, 2 * number).reshape(number, 2)
    with db.atomic():
        db.vectors.insert_new(rows, names, values)
    model = f"m{first}"
    db.models.register(metadata(model))
    db.models.activate(model, reason="first", figures={"gain": 0.25})
    db.scores.log_predictions([prediction(row.signal_id, model) for row in rows])
    db.scores.put_served([(row.signal_id, model, "scored", b"{}\xc3\xa9") for row in rows])
    db.outcomes.record([outcome(f"s{at}", at / 7 - 3.0) for at in range(first, first + number + 5)])
    db.store_feature_vector(plain(f"plain{first}"))
    db.duplicates.record([DuplicateRow("signals.created", f"{first}-1", "s1", "signal.created")])
    letter = NewDeadLetter("signals.created", f"{first}-2", "json", "é ' \\ error", b"\x00\xff", 1, "test", "f")
    (number_of_letter,) = db.dead_letters.add([letter])
    db.dead_letters.mark_discarded(number_of_letter, "no use", actor="dana")
    token = db.runs.start(f"r{first}", "signal_quality", {"seed": 1}, label_watermark=3)
    assert token
    db.runs.finish(f"r{first}", "failed", error_message="why")
    db.marks.put(f"mark{first}", 12)


def test_every_table_is_copied_or_left_out_on_purpose(tmp_path: Path) -> None:
    with FeatureDatabase(tmp_path / "a.db") as db:
        found = {name for (name,) in db._connection.query("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert {name for name in found if not name.startswith("sqlite_")} == {*TABLES, "counters", *SCHEMA_ONLY}


def test_there_and_back_again(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_AT_ONCE", 25)
    source, server, back = opened(tmp_path / "a.db"), opened(postgres_url), opened(tmp_path / "b.db")
    fill(source)
    copied = {table.name: table for table in copy_store(source, server)}
    assert (copied["feature_vectors"].rows, copied["feature_vectors"].already) == (61, 0)
    assert contents(server) == contents(source)
    assert server.counts() == source.counts()
    assert server.installation_id() == source.installation_id()
    fill(server, first=100)  # it goes on there, and numbers of its own follow
    assert server.dead_letters.newest_id() == 2
    copy_store(server, back)
    assert contents(back) == contents(server)
    assert back.counts() == server.counts()
    assert [row.reason for row in back.models.promotions()] == ["first", "first"]
    for store in (source, server, back):
        store.close()


def test_a_second_copy_brings_what_has_changed_and_no_more(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_AT_ONCE", 25)
    source, server = opened(tmp_path / "a.db"), opened(postgres_url)
    fill(source)
    copy_store(source, server)
    source.outcomes.record([outcome("s3", 9.0, revision=7)])
    fill(source, first=200, number=10)
    again = {table.name: table for table in copy_store(source, server)}
    assert contents(server) == contents(source)
    assert again["feature_vectors"].already == 25, "the second 25 hold what has not changed"
    assert again["served_scores"].already >= 50
    source.close()
    server.close()


def test_a_copy_that_was_broken_off_is_gone_on_from(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, server = opened(tmp_path / "a.db"), opened(postgres_url)
    fill(source)

    def broken_off(table: copying.CopiedTable) -> None:
        if table.name == "prediction_log":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_store(source, server, told=broken_off)
    assert server.installation_id() != source.installation_id(), "nobody may work on a part"
    copy_store(source, server)
    assert contents(server) == contents(source)
    source.close()
    server.close()


def test_another_installation_is_not_overwritten(tmp_path: Path, postgres_url: str) -> None:
    source, server = opened(tmp_path / "a.db"), opened(postgres_url)
    fill(source)
    server.store_feature_vector(plain("theirs"))
    with pytest.raises(StoreError, match="another installation, with 1 signals"):
        copy_store(source, server)
    assert server.counts().signals == 1
    source.close()
    server.close()


def test_rows_that_somebody_else_wrote_into_the_copy_are_told(tmp_path: Path, postgres_url: str) -> None:
    source, server = opened(tmp_path / "a.db"), opened(postgres_url)
    fill(source)
    copy_store(source, server)
    server.store_feature_vector(plain("theirs"))
    with pytest.raises(DifferentRows, match="feature_vectors"):
        copy_store(source, server)
    source.close()
    server.close()
