"""The Flask application, and the server it runs behind."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from contextlib import closing, suppress
from functools import partial

from flask import Flask, render_template
from flask.typing import ResponseReturnValue
from loguru import logger
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from trading_system.ml_refinement.storage import StoreError, UnusableValue
from worker.console import filters
from worker.console.access import compression, security
from worker.console.access.keys import check_exposure
from worker.console.access.sessions import LIFETIME_S
from worker.console.actions import blueprint as actions
from worker.console.dead_letters.actions import blueprint as letter_actions
from worker.console.dead_letters.pages import blueprint as letters
from worker.console.dead_letters.running import RunningActions
from worker.console.diagrams import warm
from worker.console.first_event import blueprint as first_event
from worker.console.jobs import register as mount_dashboard
from worker.console.pages import blueprint as pages
from worker.console.queries import ConsoleQueries
from worker.console.server import create_server, serve
from worker.console.signals.pages import blueprint as signals
from worker.console.zones import blueprint as zones
from worker.errors import ConfigurationError, RefineryError, TransientError
from worker.installation import open_store, refuse_other_owner, refuse_other_shards
from worker.redis_server.connection import connect
from worker.settings.schema import Settings

#: The largest body of a request: an edited event and what goes with it.
MAX_REQUEST_BYTES = 2 * 1024 * 1024


def create_app(settings: Settings, url: str) -> Flask:
    """The console's application. One for each process: the RQ dashboard is a module's global.

    Args:
        settings: of this process.
        url: address of the server.

    Raises:
        ConfigurationError: it would be open to others without a password, or with one that can be guessed; or its store
            is gone.
        StoreError: the store cannot be opened.
    """
    check_exposure(settings)
    if not settings.store_is_there:
        with suppress(TransientError), connect(url) as client:
            refuse_other_owner(settings, client)
    with open_store(settings) as store:  # brings the schema up to date, since the console itself only reads
        installation = store.installation_id()
    signing = settings.console_secrets
    flask = Flask("worker.console", template_folder="templates", static_folder="static")
    flask.config.update(
        SECRET_KEY=signing[0] if signing else secrets.token_bytes(32),
        SECRET_KEY_FALLBACKS=signing[1:],
        MAX_CONTENT_LENGTH=MAX_REQUEST_BYTES,
        SESSION_COOKIE_NAME=f"refinery-{installation[:12]}" if signing else _cookie_name(settings),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=settings.console_secure_cookies,
        PERMANENT_SESSION_LIFETIME=LIFETIME_S,
    )
    flask.jinja_options = {
        "autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "finalize": filters.visible
    }  # fmt: skip
    queries = flask.extensions["refinery"] = ConsoleQueries(settings, url)
    flask.extensions["refinery.actions"] = RunningActions(queries)
    filters.register(flask)
    compression.register(flask)
    security.register(flask, settings, queries.client)
    flask.register_blueprint(pages)
    flask.register_blueprint(zones)
    flask.register_blueprint(first_event)
    flask.register_blueprint(signals)
    flask.register_blueprint(letters)
    flask.register_blueprint(letter_actions)
    flask.register_blueprint(actions)
    mount_dashboard(flask, settings.queue_address(url), settings.masked_queue_url or settings.masked_redis_url)
    _explain_errors(flask)
    if proxies := settings.console_proxies:
        flask.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            flask.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies, x_prefix=proxies
        )
    return flask


def _cookie_name(settings: Settings) -> str:
    """Of this installation: browsers send a host's cookies to all its ports, and consoles would end each other's."""
    place = hashlib.blake2b(str(settings.state_dir).encode(), digest_size=4).hexdigest()
    return f"refinery-{settings.console_port}-{place}"


def run_console(settings: Settings, url: str, stop: threading.Event) -> None:
    """Serve the console until `stop` is set.

    Raises:
        ConfigurationError: the settings turn it off, or would show it to others without a password.
        RefineryError: its address cannot be listened on.
    """
    if settings.console_port == 0:
        raise ConfigurationError("REFINERY_CONSOLE_PORT=0: the console is turned off")
    if settings.store_url is not None:
        # Whether the store is there is shown on the pages.
        with suppress(StoreError), closing(open_store(settings, read_only=True)) as store:
            refuse_other_shards(settings, store)
    flask = create_app(settings, url)
    try:
        server = create_server(
            flask,
            host=settings.console_host,
            port=settings.console_port,
            most_request_bytes=MAX_REQUEST_BYTES,
            proxied=settings.console_proxies > 0,
        )
    except OSError as error:
        raise RefineryError(
            f"the console cannot listen on {settings.console_host}:{settings.console_port}: {error.strerror or error}"
        ) from error
    logging.getLogger("waitress").setLevel(logging.ERROR)  # it warns whenever a request waits for a thread
    logger.info("console on http://{}:{}", settings.console_host, settings.console_port)
    queries: ConsoleQueries = flask.extensions["refinery"]
    queries.start_sampling(partial(warm, queries))
    serve(server, stop)


def _explain_errors(flask: Flask) -> None:
    @flask.errorhandler(HTTPException)
    def known(error: HTTPException) -> ResponseReturnValue:
        if error.response is not None:
            return error.response
        return render_template("error.html", title=error.name, text=error.description), error.code or 500

    @flask.errorhandler(UnusableValue)
    def unusable(error: UnusableValue) -> ResponseReturnValue:
        return render_template("error.html", title="That cannot be looked for", text=str(error)), 400

    @flask.errorhandler(StoreError)
    def unreadable(error: StoreError) -> ResponseReturnValue:
        return render_template("error.html", title="The store cannot be read now", text=str(error)), 503

    @flask.errorhandler(RefineryError)
    def refused(error: RefineryError) -> ResponseReturnValue:
        return render_template("error.html", title="That did not work", text=str(error)), 503

    @flask.errorhandler(Exception)
    def unexpected(error: Exception) -> ResponseReturnValue:
        logger.opt(exception=error).error("a page of the console failed")
        return render_template("error.html", title="This page failed", text="The console's log says why."), 500
