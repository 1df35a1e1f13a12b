"""Variables of the environment as nested values: groups, JSON, precedence, and what is no JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import ConfigurationError
from worker.settings.schema import Settings, is_given, load_settings
from worker.settings.sources import NotJsonError, from_environment, merged


def test_a_groups_variable_is_json_and_what_is_in_it_has_variables_that_win() -> None:
    given = {
        "REFINERY_ML__TRAINING__MAX_FEATURES": "8",
        "REFINERY_ML__TRAINING": '{"max_features": 7, "min_training_samples": 40}',
        "REFINERY_ML": '{"enabled": false, "training": {"step_size_days": 9}}',
        "REFINERY_BATCH_SIZE": "10",
    }
    expected = {
        "batch_size": "10",
        "ml": {"enabled": False, "training": {"max_features": "8", "min_training_samples": 40}},
    }
    for names in (list(given), list(reversed(given))):
        assert from_environment(Settings, {name: given[name] for name in names}) == expected


def test_a_dictionary_has_a_variable_for_each_key_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_BENCHMARK_SYMBOLS", '{"equity": "SPX", "crypto": "BTC"}')
    monkeypatch.setenv("REFINERY_BENCHMARK_SYMBOLS__EQUITY", "NDX")
    monkeypatch.setenv("REFINERY_ML__TRAINING__HYPERPARAMETERS__MAX_DEPTH", "3")
    settings = load_settings()
    assert settings.benchmark_symbols == {"equity": "NDX", "crypto": "BTC"}
    assert settings.ml.training.hyperparameters == {"max_depth": "3"}


def test_names_count_in_any_case_within_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("refinery_Batch_Size", "9")
    monkeypatch.setenv("Refinery_ML", '{"ENABLED": false, "Training": {"Max_Features": 3}}')
    settings = load_settings()
    assert (settings.batch_size, settings.ml.enabled, settings.ml.training.max_features) == (9, False, 3)


def test_all_that_is_no_json_is_named_at_once_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_BENCHMARK_SYMBOLS", "SPX")
    monkeypatch.setenv("REFINERY_CONSOLE_OPERATORS", "ann:hunter22")
    monkeypatch.setenv("REFINERY_ML__FEATURES__PROVIDED", "[" * 100_000)
    with pytest.raises(NotJsonError):
        is_given("batch_size")
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    line = str(refused.value)
    assert line.startswith(
        "REFINERY_BENCHMARK_SYMBOLS='SPX', REFINERY_CONSOLE_OPERATORS='***', REFINERY_ML__FEATURES__P"
    )
    assert line.endswith('must be JSON, such as [5, 10] or {"equity": "SPX"}')
    assert "hunter22" not in line


@pytest.mark.parametrize("also", [{}, {"REFINERY_ML__ENABLED": "false"}])
def test_a_groups_variable_that_holds_no_group_is_refused(
    monkeypatch: pytest.MonkeyPatch, also: dict[str, str]
) -> None:
    monkeypatch.setenv("REFINERY_ML", "3")
    for name, value in also.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"^REFINERY_ML="):
        load_settings()


def test_the_first_of_two_sources_is_right_group_by_group() -> None:
    first = {"a": 1, "group": {"x": 1, "inner": {"p": 1}}, "list": [1]}
    second = {"a": 2, "b": 2, "group": {"x": 2, "y": 2, "inner": {"q": 2}}, "list": [2, 3]}
    expected = {"a": 1, "b": 2, "group": {"x": 1, "y": 2, "inner": {"p": 1, "q": 2}}, "list": [1]}
    assert merged(first, second) == expected
    assert first["group"] == {"x": 1, "inner": {"p": 1}}


def test_a_file_that_gives_a_group_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "refinery.toml").write_text("ml = 'model_dir'\n")
    monkeypatch.setenv("REFINERY_CONFIG", str(tmp_path / "refinery.toml"))
    with pytest.raises(ConfigurationError, match=r"^REFINERY_ML="):
        load_settings()
