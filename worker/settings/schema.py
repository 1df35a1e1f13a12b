"""Every setting, read once from `REFINERY_*` variables or the TOML file that `config_file` finds, and then frozen."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    DirectoryPath,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from trading_system.ml_refinement.config import MOST_DAYS, Days, FeatureSet, MLConfig
from trading_system.ml_refinement.storage.notifications.occasions import Occasion
from trading_system.ml_refinement.storage.postgres.place import read_place
from worker.errors import ConfigurationError
from worker.settings.messages import (
    config_file,
    explain,
    explain_json,
    read_config_file,
    refuse_carriage_returns,
    refuse_unknown,
    setting_types,
)
from worker.settings.redis_url import check_redis_url, cluster_address, mask_url
from worker.settings.sources import NotJsonError, from_environment, merged
from worker.settings.store_url import check_store_url
from worker.settings.webhook_url import check_webhook_url, mask_webhook_url, signing_key

Port = Annotated[int, Field(ge=0, le=65535)]
StreamName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
ConsoleSecret = Annotated[SecretStr, Field(min_length=32)]
QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

#: The queue of trainings of an installation whose streams and group have their usual names.
QUEUE_NAME = "refinery-retrain"


class _Part(BaseModel):
    """A named group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


#: The archive's file, beside that of the store.
ARCHIVE_FILE: Final = "events.db"
MOST_SHARDS: Final = 64


class StreamSettings(_Part):
    """Names of the streams and of the consumer group."""

    signals_created: StreamName = "signals.created"
    """Stream that the signal generator publishes to."""
    trades_closed: StreamName = "trades.closed"
    """Stream that the position tracker publishes to."""
    signals_scored: StreamName = "signals.scored"
    """Stream that the worker publishes scores to."""
    group: StreamName = "ml-refinement"
    """Consumer group that all workers share."""

    @model_validator(mode="after")
    def _distinct(self) -> StreamSettings:
        if len({self.signals_created, self.trades_closed, self.signals_scored}) < 3:
            raise ValueError("must name three different streams")
        return self


class ArchiveSettings(_Part):
    """The archive of events as they were received."""

    enabled: bool = True
    """Keep every received event, so that vectors can be rebuilt and decisions explained."""
    retention_days: Days = 730
    """Archived events older than this may be pruned."""


class GatewaySettings(_Part):
    """The socket that producers without a way to Redis send events to."""

    socket: Path | None = None
    """Where the gateway listens; unset: `gateway.sock` in the state directory, which nobody else may enter."""
    group: Annotated[str, Field(min_length=1)] | None = None
    """Group of users that may connect to it; unset: the gateway's own."""
    max_connections: Annotated[int, Field(ge=1, le=4096)] = 256
    """So many producers may be connected at once."""
    idle_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """A connection on which no whole line came, or no answer was read, for so long is closed."""


class NotifySettings(_Part):
    """The webhook that somebody is told by."""

    url: SecretStr | None = None
    """`https://` or `http://` address that each notification is posted to; unset: nobody is told."""
    secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    """Signs each notification: `whsec_` and base64, or any text; unset: it is not signed."""
    kinds: list[Occasion] = Field(default_factory=lambda: list(Occasion))
    """Which kinds are told; JSON list."""
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """What a notification calls this installation; unset: the host name."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    """A receiver that has not answered by then is tried again later."""
    give_up_hours: Annotated[int, Field(ge=1, le=720)] = 72
    """So long a notification is tried for, with growing pauses."""
    dead_letter_burst: Annotated[int, Field(ge=0, le=1000)] = 20
    """So many dead letters within ten minutes are told of, once an hour at most; 0: never."""

    @field_validator("url")
    @classmethod
    def _safe_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_webhook_url(value.get_secret_value())
        return value

    @field_validator("secret")
    @classmethod
    def _usable_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            signing_key(value.get_secret_value())
        return value

    @property
    def masked_url(self) -> str:
        """Where notifications go, without what may be a secret in it; `none` when no URL is set."""
        return "none" if self.url is None else mask_webhook_url(self.url.get_secret_value())


class Settings(BaseModel):
    """What one process was told. Build it with `load_settings`, pass on the few values a thing needs."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    allow_plain_remote_redis: bool = False
    """Accept `redis://` without TLS to another host, as inside a private container network."""
    redis_url: str | None = Field(default=None, repr=False)
    """`redis://`, `rediss://`, `unix://`, sentinels or a cluster; unset: the embedded server in `state_dir`."""
    allow_plain_remote_store: bool = False
    """Accept a store's URL of another host without `sslmode=verify-full`, as inside a private container network."""
    store_url: str | None = Field(default=None, repr=False)
    """`postgresql://user:password@host/database`; unset: an SQLite file in `state_dir`."""
    store_read_url: str | None = Field(default=None, repr=False)
    """Where the console reads from instead, as a standby of `store_url`; unset: from the store."""
    queue_url: str | None = Field(default=None, repr=False)
    """Server of the queue of trainings, as `redis_url`; unset: that of the streams."""
    state_dir: Path = Path("var")
    """Directory of the store, the models and the embedded server's data."""
    market_data_dir: DirectoryPath | None = None
    """One CSV or Parquet file of bars per symbol; unset: bars come with the events."""
    market_max_bar_age_days: Annotated[float, Field(gt=0, le=MOST_DAYS, allow_inf_nan=False)] = 7.0
    """Where a symbol's newest bar before a signal is older than this, its file is stale, and as good as none."""
    benchmark_symbols: dict[str, str] = Field(default_factory=dict)
    """Benchmark by asset class, such as `{"equity": "SPX"}`. JSON object."""
    console_port: Port = 8700
    """Port of the console; 0 turns it off."""
    console_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address the console listens on; another than this machine's needs operators or their password."""
    console_operator_password: SecretStr | None = None
    """Password of the role that may change things; unset: whoever is on this machine may."""
    console_viewer_password: SecretStr | None = None
    """Password of the role that may only look; unset: there is no such role."""
    console_operators: dict[str, SecretStr] = Field(default_factory=dict)
    """Who may change things: names, each with what `refinery hash-password` makes of the password. JSON object."""
    console_viewers: dict[str, SecretStr] = Field(default_factory=dict)
    """Who may only look, the same way. JSON object."""
    console_secret: ConsoleSecret | None = None
    """Signs sessions and forms, so that replicas of one console accept each other's; unset: each has its own."""
    console_previous_secret: ConsoleSecret | None = None
    """Accepted beside it, while one is exchanged for another."""
    console_secure_cookies: bool = False
    """Send the session cookie over HTTPS only; for a console behind a proxy that speaks TLS."""
    console_proxies: Annotated[int, Field(ge=0, le=10)] = 0
    """So many proxies stand before the console, and what they add to `X-Forwarded-*` is believed."""
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address the metrics of worker and trainer listen on; they have no password."""
    metrics_port: Port = 9464
    """Port of the worker's metrics, plus its slot; 0 turns them off."""
    trainer_metrics_port: Port = 9465
    """Port of the trainer's metrics; 0 turns them off."""
    streams: StreamSettings = StreamSettings()
    """Names of the streams and of the consumer group."""
    shards: Annotated[int, Field(ge=1, le=MOST_SHARDS)] = 1
    """Into so many parts streams and writers are divided, by signal; fixed when a store in PostgreSQL is made."""
    consumer_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")] | None = None
    """Begins the names of workers in the consumer group, before the state directory's token; unset: the host name."""
    consumer_slot: Annotated[int, Field(ge=0, le=999)] = 0
    """Which of several workers on this machine this one is."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 512
    """At most this many events are read, stored and acknowledged together."""
    block_ms: Annotated[int, Field(ge=1, le=2000)] = 1000
    """How long a read waits for new events."""
    claim_idle_ms: Annotated[int, Field(ge=1000, le=86_400_000)] = 60_000
    """An event that another worker has held unacknowledged for this long is taken over."""
    max_deliveries: Annotated[int, Field(ge=1, le=100)] = 5
    """After this many failed tries an event is dead-lettered; faults of our own side do not count."""
    max_event_bytes: Annotated[int, Field(ge=1024, le=512 * 1024 * 1024)] = 1024 * 1024
    """Largest event that is parsed."""
    max_future_s: Annotated[int, Field(ge=0, le=31_536_000)] = 300
    """How far a signal's timestamp, or a trade's close, may lie ahead of our clock."""
    max_r_multiple: Annotated[float, Field(gt=0, le=1e15)] = 1000.0
    """An outcome with a larger R-multiple, either way, is dead-lettered: it cannot be meant."""
    scored_maxlen: Annotated[int, Field(ge=0, le=10**12)] = 1_000_000
    """The scores' stream is trimmed to about this many entries; 0 keeps all."""
    input_retention_hours: Annotated[int, Field(ge=0, le=24 * MOST_DAYS)] = 0
    """Events that every consumer group has acknowledged are dropped from the input streams after this; 0 keeps all."""
    archive: ArchiveSettings = ArchiveSettings()
    """The archive of events as they were received."""
    gateway: GatewaySettings = GatewaySettings()
    """The socket that producers without a way to Redis send events to."""
    notify: NotifySettings = NotifySettings()
    """The webhook that somebody is told by."""
    training_timeout_s: Annotated[int, Field(ge=10, le=2_592_000)] = 3600
    """A training that takes longer is ended and counts as failed."""
    training_nice: Annotated[int, Field(ge=0, le=19)] = 10
    """How far a training gives way to other processes of its machine (`nice`); 0: not at all."""
    training_queue: QueueName | None = None
    """Queue of trainings; unset: `refinery-retrain`, with a suffix where input streams or group have other names."""
    shutdown_grace_s: Annotated[int, Field(ge=1, le=86_400)] = 30
    """How long a stopping process may finish what it has begun."""
    log_format: Literal["text", "json"] = "text"
    """Log lines for people or for machines."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severity that is logged."""
    ml: MLConfig = Field(default_factory=MLConfig)
    """Everything about learning."""

    @field_validator("state_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if any(sign < " " or sign == "\x7f" for sign in str(value)):
            raise ValueError("must be a path without control characters")
        return value.expanduser().absolute()

    @field_validator("ml")
    @classmethod
    def _named(cls, value: MLConfig) -> MLConfig:
        # The library lets the names be assigned later; settings stand as they are.
        if value.features.feature_set == FeatureSet.CUSTOM and not value.features.custom_features:
            raise ValueError("must name features in REFINERY_ML__FEATURES__CUSTOM_FEATURES when the set is custom")
        return value

    @field_validator("console_previous_secret")
    @classmethod
    def _beside_a_secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # The secret is validated before, because it is defined before; missing here when it was itself wrong.
        if value is not None and "console_secret" in info.data and info.data["console_secret"] is None:
            raise ValueError("needs REFINERY_CONSOLE_SECRET beside it, which signs")
        return value

    @field_validator("redis_url", "queue_url")
    @classmethod
    def _safe_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            # Validated before, because it is defined before; missing here when it was itself wrong.
            check_redis_url(value, allow_plain_remote=info.data.get("allow_plain_remote_redis", False))
        return value

    @field_validator("store_url", "store_read_url")
    @classmethod
    def _safe_store(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            check_store_url(value, allow_plain_remote=info.data.get("allow_plain_remote_store", False))
        return value

    @model_validator(mode="after")
    def _reads_its_store(self) -> Self:
        if self.store_read_url is not None and self.store_url is None:
            raise ValueError("REFINERY_STORE_READ_URL is of a store in PostgreSQL: REFINERY_STORE_URL is not set")
        return self

    @model_validator(mode="after")
    def _queue_beside_a_cluster(self) -> Self:
        if self.on_cluster and self.queue_url is None:
            raise ValueError("REFINERY_QUEUE_URL is needed beside a cluster: the queue of trainings, RQ, runs on none")
        if self.queue_url is not None and cluster_address(self.queue_url) is not None:
            raise ValueError("REFINERY_QUEUE_URL must be of no cluster: the queue of trainings, RQ, runs on none")
        return self

    @property
    def on_cluster(self) -> bool:
        """Whether the streams are in a cluster."""
        return self.redis_url is not None and cluster_address(self.redis_url) is not None

    @model_validator(mode="after")
    def _shards_in_postgres(self) -> Self:
        if self.shards > 1 and self.store_url is None:
            raise ValueError("REFINERY_SHARDS needs a store in PostgreSQL: SQLite has one write lock")
        return self

    @property
    def store_path(self) -> Path:
        """The SQLite store, where `store_url` does not name another one."""
        return self.state_dir / "features.db"

    @property
    def store_place(self) -> str:
        """Path or URL of the store."""
        return self.store_url or str(self.store_path)

    @property
    def store_is_there(self) -> bool:
        """Whether there is a store to open. One in PostgreSQL was made on purpose, so it is, or that is an error."""
        return self.store_url is not None or self.store_path.exists()

    @property
    def masked_store(self) -> str:
        """Where the store is, without password."""
        return str(self.store_path) if self.store_url is None else read_place(self.store_url).name

    @property
    def archive_path(self) -> Path:
        """The SQLite archive of received events, where `store_url` does not name a store."""
        return self.state_dir / ARCHIVE_FILE

    @property
    def archive_place(self) -> str:
        """Path of the archive, or URL of the store that it is in."""
        return self.store_url or str(self.archive_path)

    @property
    def archive_is_there(self) -> bool:
        """Whether there is an archive to open; one in PostgreSQL is where the store is."""
        return self.store_url is not None or self.archive_path.exists()

    @property
    def models_dir(self) -> Path:
        """Model files."""
        return self.state_dir / "models"

    @property
    def valkey_dir(self) -> Path:
        """Data of the embedded server."""
        return self.state_dir / "valkey"

    @property
    def gateway_socket(self) -> Path:
        """Where the gateway listens."""
        return self.gateway.socket or self.state_dir / "gateway.sock"

    @property
    def training_lock_path(self) -> Path:
        """File that every process which trains on this state directory keeps locked, all of them together."""
        return self.state_dir / "training.lock"

    @property
    def import_lock_path(self) -> Path:
        """File that a process which imports history keeps locked."""
        return self.state_dir / "import.lock"

    @property
    def queue_name(self) -> str:
        """The queue of trainings: another one for each pair of input streams and group, unless it is set."""
        if self.training_queue is not None:
            return self.training_queue
        named, usual = (
            (streams.signals_created, streams.trades_closed, streams.group)
            for streams in (self.streams, StreamSettings())
        )
        if named == usual:
            return QUEUE_NAME
        return f"{QUEUE_NAME}-{hashlib.blake2b(' '.join(named).encode(), digest_size=4).hexdigest()}"

    @property
    def console_secrets(self) -> list[str]:
        """What the console signs with, and then what it accepts beside it; empty: with one of its own."""
        given = (self.console_secret, self.console_previous_secret)
        return [secret.get_secret_value() for secret in given if secret is not None]

    def queue_address(self, url: str) -> str:
        """Where the queue of trainings is, for a process whose streams are at `url`."""
        return url if self.queue_url is None else self.queue_url

    @property
    def masked_queue_url(self) -> str | None:
        """Where the queue of trainings is, without password; None where it is with the streams."""
        return None if self.queue_url is None else mask_url(self.queue_url)

    @property
    def consumer(self) -> str:
        """This process's stable name in the consumer group."""
        return f"{self.consumer_name or socket.gethostname()}-{self.consumer_slot}"

    @property
    def masked_redis_url(self) -> str:
        """Where the streams are, without password; `embedded` when no URL is set."""
        return "embedded" if self.redis_url is None else mask_url(self.redis_url)

    def to_ml_config(self) -> MLConfig:
        """The library's configuration, with the paths below `state_dir`."""
        return replace(self.ml, model_dir=str(self.models_dir), feature_db_path=self.store_place)


def load_settings(**overrides: Any) -> Settings:
    """Settings from `overrides`, the environment and the TOML file, in this order of precedence.

    Raises:
        ConfigurationError: one line that names each wrong or unknown setting, its value and what is allowed.
    """
    types = setting_types(Settings)
    refuse_unknown(os.environ, types)
    refuse_carriage_returns(os.environ)
    file = read_config_file(config_file(), types)
    try:
        given = merged(overrides, merged(from_environment(Settings, os.environ), file))
        return Settings(**given)
    except ValidationError as error:
        lines = [explain(item, types) for item in error.errors(include_url=False)]
        raise ConfigurationError("; ".join(lines)) from None
    except NotJsonError as error:
        raise ConfigurationError(explain_json(error.values, types)) from None


def is_given(*path: str) -> bool:
    """Whether environment or file give a setting a value, be it the default, as `is_given("ml", "enabled")`."""
    file = read_config_file(config_file(), setting_types(Settings))
    return any(_at(source, path) is not None for source in (from_environment(Settings, os.environ), file))


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
