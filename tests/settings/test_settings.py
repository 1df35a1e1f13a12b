"""Settings: read once, frozen, and a wrong one named in one line."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, MLConfig, TrainingConfig
from worker.errors import ConfigurationError
from worker.settings.messages import fields_of, setting_types
from worker.settings.redis_url import mask_url
from worker.settings.reference import meanings
from worker.settings.schema import Settings, is_given, load_settings

HIDDEN = "s3cret"


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    line = str(caught.value)
    assert "\n" not in line
    assert HIDDEN not in line
    return line


def test_without_anything_set_the_defaults_are_the_contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.redis_url is None
    assert settings.state_dir == tmp_path / "var"
    assert settings.store_path == tmp_path / "var" / "features.db"
    assert settings.models_dir == tmp_path / "var" / "models"
    assert settings.valkey_dir == tmp_path / "var" / "valkey"
    assert (settings.console_port, settings.metrics_port, settings.trainer_metrics_port) == (8700, 9464, 9465)
    streams = settings.streams
    assert (streams.signals_created, streams.trades_closed, streams.signals_scored, streams.group) == (
        "signals.created",
        "trades.closed",
        "signals.scored",
        "ml-refinement",
    )
    assert settings.consumer == f"{socket.gethostname()}-0"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("REFINERY_BATCH_SIZE", "0", "REFINERY_BATCH_SIZE='0': must be greater than or equal to 1"),
        ("REFINERY_BLOCK_MS", "2001", "REFINERY_BLOCK_MS='2001': must be less than or equal to 2000"),
        ("REFINERY_LOG_FORMAT", "xml", "REFINERY_LOG_FORMAT='xml': must be 'text' or 'json'"),
        ("REFINERY_ML__ML_SCORE_WEIGHT", "nan", "REFINERY_ML__ML_SCORE_WEIGHT='nan': must be a finite number"),
        ("REFINERY_ML__ENABLED", "maybe", "REFINERY_ML__ENABLED='maybe': must be a valid boolean, unable to"),
        ("REFINERY_ML__QUALITY_THRESHOLD_LOW", "0.9", "REFINERY_ML: must have quality_threshold_low below"),
        (
            "REFINERY_ML__FEATURES__TECHNICAL_LOOKBACKS",
            "[5, 0]",
            "REFINERY_ML__FEATURES__TECHNICAL_LOOKBACKS='0': must",
        ),
        ("REFINERY_ML__FEATURES__TECHNICAL_LOOKBACKS", "5,9", "REFINERY_ML__FEATURES__TECHNICAL_LOOKBACKS='5,9': must"),
        (
            "REFINERY_ML__FEATURES__FEATURE_SET",
            "custom",
            "REFINERY_ML: must name features in REFINERY_ML__",
        ),
        ("REFINERY_ML__FEATURES__PROVIDED", "funding", "REFINERY_ML__FEATURES__PROVIDED='funding': must be JSON"),
        ("REFINERY_ML__FEATURES__PROVIDED", '["a", "B"]', "REFINERY_ML__FEATURES__PROVIDED='B': must match pattern"),
        (
            "REFINERY_ML__FEATURES__PROVIDED",
            '["a", "b", "a"]',
            "REFINERY_ML__FEATURES__PROVIDED=\"['a', 'b', 'a']\": must name each feature once, and names a twice",
        ),
        (
            "REFINERY_ML__FEATURES__PROVIDED_NEUTRAL",
            '{"a": 1}',
            "REFINERY_ML__FEATURES: must list in `provided` what `provided_neutral` names: a",
        ),
        ("REFINERY_BENCHMARK_SYMBOLS", "SPX", "REFINERY_BENCHMARK_SYMBOLS='SPX': must be JSON"),
        ("REFINERY_MARKET_DATA_DIR", "/nowhere", "REFINERY_MARKET_DATA_DIR='/nowhere': must be an existing directory"),
        ("REFINERY_STREAMS__TRADES_CLOSED", "signals.created", "REFINERY_STREAMS: must name three different streams"),
        ("REFINERY_STREAMS__GROUP", "a b", "REFINERY_STREAMS__GROUP='a b': must match pattern"),
        ("REFINERY_CONFIG", "/nowhere.toml", "REFINERY_CONFIG='/nowhere.toml': must name a readable TOML file"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    assert refused(monkeypatch, **{name: value}).startswith(line)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("REFINERY_BACH_SIZE", "REFINERY_BATCH_SIZE"),
        ("REFINERY_ML__MIN_NEW_SAMPLE", "REFINERY_ML__MIN_NEW_SAMPLES_FOR_RETRAIN"),
        ("REFINERY_REDISURL", "REFINERY_REDIS_URL"),
        ("REFINERY_BATCH_SIZE__X", "REFINERY_BATCH_SIZE"),
        ("refinery_metric_port", "REFINERY_METRICS_PORT"),
    ],
)
def test_an_unknown_variable_is_refused_with_near_names(monkeypatch: pytest.MonkeyPatch, name: str, near: str) -> None:
    line = refused(monkeypatch, **{name: "1"})
    assert line.startswith(f"{name.upper()}: no such setting")
    assert near in line


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused(monkeypatch, REFINERY_BATCH_SIZE="0", REFINERY_MAX_DELIVERIES="0")
    assert "REFINERY_BATCH_SIZE" in line
    assert "REFINERY_MAX_DELIVERIES" in line


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/1",
        "redis://:s3cret@127.0.0.1:6379",
        "redis://[::1]:6379",
        "rediss://user:s3cret@redis.example.com:6380/0?ssl_ca_certs=/etc/ca.pem",
        "unix:///run/valkey.sock?db=2",
        "rediss+sentinel://user:s3cret@a.example.com:26379,b.example.com/mymaster/0",
        "rediss+sentinel://[fd00::1]:26379,[fd00::2]/mymaster?sentinel_password=s3cret&ssl_ca_certs=/etc/ca.pem",
    ],
)
def test_a_safe_address_is_accepted_and_shown_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REFINERY_REDIS_URL", url)
    settings = load_settings()
    assert settings.redis_url == url
    assert HIDDEN not in settings.masked_redis_url
    assert HIDDEN not in repr(settings)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:s3cret@redis.example.com:6379", "must be rediss://"),
        ("redis://:s3cret@10.0.0.7:6379", "must be rediss://"),
        ("redis://:s3cret@localhost.example.com", "must be rediss://"),
        ("http://:s3cret@localhost", "must begin with"),
        ("localhost:6379", "must begin with"),
        ("redis://", "must name a host"),
        ("redis://:s3cret@localhost:port", "must be a URL"),
        ("unix://relative.sock", "must name an absolute path"),
        ("rediss://:s3cret@h?ssl_cert_reqs=none", "must have no options but"),
        ("rediss://:s3cret@h?ssl_check_hostname=false", "must have no options but"),
        ("redis://:s3cret@localhost?decode_responses=true", "must have no options but"),
        ("redis://:s3cret@localhost?sentinel_password=s3cret", "must have no options but"),
        ("redis+sentinel://:s3cret@localhost/mymaster", "must be rediss+sentinel://"),
        ("rediss+sentinel://:s3cret@a,b", "must name what the sentinels call the primary"),
        ("rediss+sentinel://:s3cret@a,b/mymaster/x", "must name what the sentinels call the primary"),
        ("rediss+sentinel://:s3cret@/mymaster", "must name sentinels as host:port"),
        ("rediss+sentinel://:s3cret@a:1,,b/mymaster", "must name sentinels as host:port"),
        ("rediss+sentinel://:s3cret@a:99999/mymaster", "must name sentinels as host:port"),
        ("rediss+sentinel://:s3cret@a/m?ssl_cert_reqs=none", "must have no options but"),
    ],
)
def test_an_unsafe_address_is_refused_without_showing_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str, why: str
) -> None:
    line = refused(monkeypatch, REFINERY_REDIS_URL=url)
    assert line.startswith("REFINERY_REDIS_URL=")
    assert why in line


def test_plain_text_to_another_host_can_be_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_REDIS_URL", "redis://redis:6379/0")
    monkeypatch.setenv("REFINERY_ALLOW_PLAIN_REMOTE_REDIS", "true")
    assert load_settings().redis_url == "redis://redis:6379/0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:p@ss:w@rd@h:1/0", "redis://***@h:1/0"),
        ("nothing to hide", "nothing to hide"),
        ("redis://h:1", "redis://h:1"),
        ("redis://u:p@[broken", "redis://***@[broken"),
        ("redis+sentinel://u:p@h:1,[::1],k/m/0", "redis+sentinel://***@h:1,[::1],k/m/0"),
        ("redis+sentinel://h/m?sentinel_password=p", "redis+sentinel://h/m?sentinel_password=***"),
    ],
)
def test_credentials_are_masked(text: str, shown: str) -> None:
    assert mask_url(text) == shown


def test_the_environment_wins_over_the_file_and_arguments_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "refinery.toml"
    file.write_text(
        "batch_size = 10\nblock_ms = 20\nmax_deliveries = 3\n"
        "[benchmark_symbols]\nequity = 'SPX'\n"
        "[ml.training]\nmin_training_samples = 40\nmax_features = 7\n"
        "[ml.features]\nprovided = ['funding', 'edge']\n"
    )
    monkeypatch.setenv("REFINERY_CONFIG", str(file))
    monkeypatch.setenv("REFINERY_BLOCK_MS", "30")
    monkeypatch.setenv("REFINERY_MAX_DELIVERIES", "4")
    monkeypatch.setenv("REFINERY_ML__TRAINING__MAX_FEATURES", "8")
    monkeypatch.setenv("REFINERY_ML__FEATURES__PROVIDED_NEUTRAL", '{"edge": 0.5}')
    settings = load_settings(max_deliveries=5)
    assert (settings.batch_size, settings.block_ms, settings.max_deliveries) == (10, 30, 5)
    assert settings.benchmark_symbols == {"equity": "SPX"}
    training = settings.to_ml_config().training
    assert (training.min_training_samples, training.max_features) == (40, 8)
    features = settings.to_ml_config().features
    assert (features.provided, features.provided_neutral) == (["funding", "edge"], {"edge": 0.5})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("bach_size = 1", "REFINERY_BACH_SIZE: no such setting; near names: REFINERY_BATCH_SIZE"),
        ("[ml]\nenable = true", "REFINERY_ML__ENABLE: no such setting; near names: REFINERY_ML__ENABLED"),
        ("batch_size = 'x'", "REFINERY_BATCH_SIZE='x': must be a valid integer"),
        ("batch_size =", "REFINERY_CONFIG="),
    ],
)
def test_a_wrong_file_is_refused_like_a_wrong_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, line: str
) -> None:
    (tmp_path / "refinery.toml").write_text(text)
    assert refused(monkeypatch, REFINERY_CONFIG=str(tmp_path / "refinery.toml")).startswith(line)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_REDIS_URL", "")
    monkeypatch.setenv("REFINERY_BATCH_SIZE", "")
    assert load_settings().redis_url is None


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.batch_size = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.streams.group = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("group", "config", "derived"),
    [
        ("ML", MLConfig, {"model_dir", "feature_db_path"}),
        ("ML__FEATURES", FeatureConfig, set()),
        ("ML__TRAINING", TrainingConfig, set()),
    ],
)
def test_every_field_of_the_library_is_a_setting_but_its_paths(group: str, config: type, derived: set[str]) -> None:
    known = {name.removeprefix(f"REFINERY_{group}__").lower() for name in setting_types(Settings)}
    fields = {field.name for field in dataclasses.fields(config)} - {"features", "training"}
    assert known & fields == fields - derived


def test_the_paths_of_the_library_cannot_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "refinery.toml"
    file.write_text("[ml]\nmodel_dir = 'elsewhere'\n")
    monkeypatch.setenv("REFINERY_CONFIG", str(file))
    answer = "REFINERY_ML__MODEL_DIR: no setting of its own; REFINERY_STATE_DIR replaces it: model files lie in its"
    assert refused(monkeypatch).startswith(answer)
    monkeypatch.delenv("REFINERY_CONFIG")
    assert refused(monkeypatch, REFINERY_ML__MODEL_DIR="x").startswith(answer)
    monkeypatch.delenv("REFINERY_ML__MODEL_DIR")
    line = refused(monkeypatch, REFINERY_ML__FEATURE_DB_PATH="x")
    assert line.startswith(
        "REFINERY_ML__FEATURE_DB_PATH: no setting of its own; REFINERY_STATE_DIR replaces it: the store"
    )


def test_the_defaults_are_the_librarys_and_its_paths_are_ours(tmp_path: Path) -> None:
    ml = load_settings(state_dir=tmp_path).to_ml_config()
    expected = MLConfig(model_dir=str(tmp_path / "models"), feature_db_path=str(tmp_path / "features.db"))
    assert ml == expected
    assert ml.features.feature_set is FeatureSet.STANDARD


def test_every_setting_says_what_it_is_for() -> None:
    def described(group: type, path: str = "") -> None:
        said = meanings(group)
        for name, field in (fields_of(group) or {}).items():
            assert said.get(name), f"{path}{name}"
            if fields_of(field.annotation) is not None:
                described(field.annotation, f"{path}{name}.")  # type: ignore[arg-type]

    described(Settings)
    assert "REFINERY_ML__MIN_NEW_SAMPLES_FOR_RETRAIN" in setting_types(Settings)


def test_a_variable_from_a_file_of_windows_is_told_its_carriage_return(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused(monkeypatch, REFINERY_STATE_DIR="/srv/refinery\r", REFINERY_LOG_LEVEL="INFO\r")
    assert line.startswith("REFINERY_LOG_LEVEL, REFINERY_STATE_DIR: ends in a carriage return")


def test_a_state_directory_has_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must be a path without control characters" in refused(monkeypatch, REFINERY_STATE_DIR="/srv/a\nb")


def test_a_file_with_a_byte_order_mark_is_read_as_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "refinery.toml"
    file.write_bytes(b"\xef\xbb\xbfbatch_size = 7\n")
    monkeypatch.setenv("REFINERY_CONFIG", str(file))
    assert load_settings().batch_size == 7
    assert is_given("batch_size")
