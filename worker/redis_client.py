"""A client of Redis at an address: that of a server, of sentinels that know the primary, or of a cluster."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

from worker.settings.redis_url import ClusterAddress, SentinelAddress, cluster_address, sentinel_address

#: One of them that is gone must not be waited for as long as a server that works on a command.
_SENTINEL_TIMEOUT_S = 2.0
#: How often sentinels are asked while a connection holds, and the share of the time that this may take. One that was
#: demoted is told so by the sentinels some ten seconds later, and takes writes until then which nobody will have.
_ASKED_EVERY_S = 1.0
_SHARE = 0.02


def client_at(url: str, **options: Any) -> redis.Redis:
    """A client of the server at `url`, of whichever server the sentinels at `url` name as the primary, or of a cluster.

    Args:
        url: one that `check_redis_url` accepts.
        options: of `redis.Redis`, for connections to the server.
    """
    if (cluster := cluster_address(url)) is not None:
        return _ClusterClient(cluster, options)  # type: ignore[return-value]  # it has the commands of one
    address = sentinel_address(url)
    if address is None:
        return redis.Redis.from_url(url, **options)
    return redis.Redis.from_pool(
        _PrimaryPool(address.name, sentinels_at(address), **_of_server(address) | _tls(address) | options)
    )


def primary_of(client: redis.Redis, key: str) -> str | None:
    """Host and port of what sentinels named as the primary last, or of the server of a cluster that has the slot of
    this key; None where none are asked, or have not been yet.

    Raises:
        redis.ConnectionError: no server of the cluster can be asked.
    """
    cluster = _of_cluster(client)
    if cluster is not None:
        return cluster.server_of(key)
    pool = client.connection_pool
    address = pool.master_address if isinstance(pool, SentinelConnectionPool) else None
    return None if address is None else f"{address[0]}:{address[1]}"


class Replication(NamedTuple):
    """What a server's data is called among those that replicate it."""

    role: str
    id: str
    #: Of the data that it replicated until it took over; zeros where it never did.
    id_before: str


def replication_at(client: redis.Redis, key: str) -> Replication | None:
    """How the server of a cluster replicates that has the slot of this key; None where the client is of no cluster.

    Raises:
        redis.RedisError: it does not say.
    """
    cluster = _of_cluster(client)
    return None if cluster is None else cluster.replication_at(key)


def _of_cluster(client: object) -> _ClusterClient | None:
    return client if isinstance(client, _ClusterClient) else None


def _of_server(address: SentinelAddress | ClusterAddress) -> dict[str, Any]:
    """What the client reads of the server's address, but for where it is."""
    read: dict[str, Any] = parse_url(address.server_url)  # type: ignore[no-untyped-call]
    return {name: value for name, value in read.items() if name not in ("host", "connection_class")}


def _tls(address: SentinelAddress | ClusterAddress) -> dict[str, Any]:
    """What servers and sentinels have in common: whether they are spoken to over TLS, and with which certificates."""
    if not address.server_url.startswith("rediss:"):
        return {}
    return {"ssl": True} | {name: value for name, value in _of_server(address).items() if name.startswith("ssl_")}


def sentinels_at(address: SentinelAddress) -> Sentinel:
    """The sentinels of an address, which are not asked yet."""
    return _Sentinels(
        address.hosts,
        sentinel_kwargs={
            "username": address.username,
            "password": address.password,
            "socket_timeout": _SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            **_tls(address),
        },
    )


class SentinelAnswer(NamedTuple):
    """What one sentinel says of the primary, or why it says nothing."""

    sentinel: str
    trouble: str = ""
    primary: str = ""
    replicas: int = 0
    sentinels: int = 0


def ask_each(url: str) -> list[SentinelAnswer]:
    """What each sentinel of an address says; empty where it is that of a server."""
    address = sentinel_address(url)
    if address is None:
        return []
    asked = zip(address.hosts, sentinels_at(address).sentinels, strict=True)
    return [_answer(f"{host}:{port}", sentinel, address.name) for (host, port), sentinel in asked]


def _answer(where: str, sentinel: redis.Redis, name: str) -> SentinelAnswer:
    try:
        said: Any = sentinel.sentinel_master(name)
    except redis.RedisError as error:
        return SentinelAnswer(where, str(error) or type(error).__name__)
    place = f"{said['ip']}:{said['port']}"
    return SentinelAnswer(where, "", place, int(said["num-slaves"]), int(said["num-other-sentinels"]) + 1)


class _Sentinels(Sentinel):
    """Asked by one thread at a time: the order in which they are asked changes with each answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        self._turn = threading.Lock()

    def discover_master(self, service_name: str) -> Any:
        """Address and port of the primary.

        Raises:
            MasterNotFoundError: no sentinel answers that knows one which is up.
        """
        try:
            with self._turn:
                return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        except (MasterNotFoundError, redis.ResponseError) as error:
            raise MasterNotFoundError(f"no sentinel names a primary {service_name!r} that is up") from error


class _PrimaryPool(SentinelConnectionPool):
    """Asks the sentinels anew also while its connections hold: who is the primary no more goes on answering."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        self._ask_at = time.monotonic() + _ASKED_EVERY_S

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        """A connection to what is the primary as far as is known.

        Raises:
            redis.ConnectionError: there is none.
        """
        now = time.monotonic()
        if now >= self._ask_at:
            self._ask_at = now + _ASKED_EVERY_S
            with suppress(redis.ConnectionError):  # what we have may work all the same: sentinels are no part of it
                self.get_master_address()  # type: ignore[no-untyped-call]  # closes idle ones to another server
            self._ask_at += (time.monotonic() - now) / _SHARE
        return super().get_connection(*arguments, **options)


class _ClusterClient:
    """The client's own of a cluster, which follows `MOVED` and `ASK`: made when it is first used, since making it asks
    the servers; and made anew, from the servers of the address, when its connections are dropped.
    """

    def __init__(self, address: ClusterAddress, options: dict[str, Any]) -> None:
        self._address = address
        self._options = _of_server(address) | _tls(address) | options
        self._parser = self._options.pop("parser_class", None)
        self._made: RedisCluster | None = None
        self._turn = threading.Lock()
        #: Who drops connections asks a client's pool to.
        self.connection_pool = self

    def __getattr__(self, name: str) -> Any:
        """The commands of the client."""
        return getattr(self._client(), name)

    def __enter__(self) -> _ClusterClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ping(self) -> Any:
        """Of one server, the first that answers; so the next four."""
        return self._of_one("ping")

    def info(self, *sections: str) -> Any:
        return self._of_one("info", *sections)

    def time(self) -> Any:
        return self._of_one("time")

    def config_get(self, *names: str, target_nodes: Any = None) -> Any:
        if target_nodes is not None:
            return self._client().config_get(*names, target_nodes=target_nodes)
        return self._of_one("config_get", *names)

    def cluster_nodes(self) -> Any:
        return self._of_one("execute_command", "CLUSTER NODES")

    def dbsize(self) -> Any:
        """Of all that take writes together, where the client would ask one."""
        return self._client().dbsize(target_nodes=RedisCluster.PRIMARIES)

    def _of_one(self, command: str, *words: str) -> Any:
        """What one of those says that take writes. One that is gone is still among them until another has its slots."""
        client = self._client()
        *others, last = client.get_primaries()  # type: ignore[no-untyped-call]
        for node in others:
            with suppress(redis.ConnectionError, redis.TimeoutError):
                return getattr(client, command)(*words, target_nodes=node)
        return getattr(client, command)(*words, target_nodes=last)

    def server_of(self, key: str) -> str:
        """Host and port of the server that has the slot of a key, as far as is known."""
        node: Any = self._client().get_node_from_key(key)  # type: ignore[no-untyped-call]
        return str(node.name)

    def replication_at(self, key: str) -> Replication:
        """How that server replicates."""
        client = self._client()
        told: Any = client.info("replication", target_nodes=client.get_node_from_key(key))  # type: ignore[no-untyped-call]
        return Replication(told["role"], told["master_replid"], told["master_replid2"])

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Forget what is known of the cluster. A connection that another thread uses is left to that one if need be."""
        with self._turn:
            before, self._made = self._made, None
        if before is None:
            return
        if inuse_connections:
            before.close()
            return
        for node in before.get_nodes():  # type: ignore[no-untyped-call]
            if node.redis_connection is not None:
                node.redis_connection.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        self.disconnect()

    def _client(self) -> RedisCluster:
        with self._turn:
            if self._made is None:
                try:
                    self._made = RedisCluster(
                        startup_nodes=[ClusterNode(*host) for host in self._address.hosts],  # type: ignore[no-untyped-call]
                        redis_connect_func=self._bounded,
                        **self._options,
                    )
                except redis.exceptions.RedisClusterException as error:
                    first = _first_cause(error)
                    if isinstance(first, (redis.AuthenticationError, redis.exceptions.NoPermissionError)):
                        raise first from error  # the client says of a right that is missing that this is no cluster
                    raise redis.ConnectionError(f"no server of the cluster can be asked: {error}") from error
                except IndexError as error:
                    raise redis.ConnectionError("no server of the cluster has any slots yet") from error
            return self._made

    def _bounded(self, connection: Any) -> None:
        """Have a new connection read replies by the parser that was given: the client of a cluster takes none."""
        if self._parser is not None:
            connection.set_parser(self._parser)
            connection._parser.on_connect(connection)


def _first_cause(error: BaseException) -> BaseException:
    """What an error began with."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error
