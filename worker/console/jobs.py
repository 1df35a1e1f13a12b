"""The RQ dashboard under the console: JSON only, escaped, POST only, and for operators where it changes things.

The guard of the console stands in front of every route. What is changed here in the dashboard itself is what it would
otherwise do: unpickle, insert text from Redis into pages raw, take GET for a command, and answer 500 to unknown ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import redis
import rq_dashboard.web as dashboard
from flask import Blueprint, Flask, abort, flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from jinja2 import BaseLoader, ChoiceLoader, Environment, FunctionLoader, PackageLoader
from loguru import logger
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.serializers import JSONSerializer
from werkzeug.exceptions import HTTPException

from worker.console.access.security import actor, require_operator
from worker.console.overview import Overview
from worker.console.queries import console_queries
from worker.errors import TransientError
from worker.installation import refuse_other_owner
from worker.observability.status import training_waits_for
from worker.retraining import json_only  # noqa: F401 - RQ must not unpickle
from worker.retraining.queue import connect_queue
from worker.retraining.requests import enqueue

dashboard.config.serializer = JSONSerializer

blueprint = Blueprint("jobs", __name__)

PREFIX = "/jobs/rq"
_MOST_PER_PAGE = 200


@blueprint.get("/jobs")
def overview() -> ResponseReturnValue:
    """Trainings that wait, run and are over, with the dashboard below."""
    queries = console_queries()
    seen = queries.overview()
    return render_template(
        "jobs.html",
        seen=seen,
        waits=training_waits_for(seen.status),
        runs=queries.runs(20),
        address=f"{request.script_root}{PREFIX}/0/view/jobs/{queries.settings.queue_name}/finished/8/dsc/1",
        refused=_refused_now(seen),
    )


@blueprint.post("/jobs/train")
def train() -> ResponseReturnValue:
    """Ask for a training now, due or not, in the name of who asks.

    Raises:
        TransientError: Redis does not answer, or another installation handles the streams.
    """
    require_operator()
    queries = console_queries()
    if refused := _refused_now(queries.overview()):
        abort(409, refused)
    refuse_other_owner(queries.settings, queries.client)
    try:
        job_id = enqueue(queries.settings, queries.store, queries.rq_client, requested_by=actor())
    except redis.RedisError as error:
        raise TransientError(f"the Redis of the queue does not answer: {error}") from error
    logger.info("training {} was asked for by {}", job_id, actor())
    flash(f"{job_id} waits for the trainer; its end is told below.")
    return redirect(url_for("jobs.overview"))


def _refused_now(seen: Overview) -> str | None:
    """Why no training can be asked for now; None where it can."""
    if seen.status.pending is None:
        return "Redis does not answer."
    if not seen.status.queue_answers:
        return "The Redis of the queue does not answer."
    if seen.training is not None:
        return "A training is running." if seen.training == "started" else "A training waits for the trainer already."
    if seen.trainers == 0:
        return "No trainer is running: refinery trainer"
    return None


def register(flask: Flask, url: str, shown_url: str) -> None:
    """Mount the dashboard at `PREFIX` of the application.

    Args:
        flask: the console's application, already guarded.
        url: address of the server.
        shown_url: the same without its password, for the page.
    """
    flask.register_blueprint(blueprint)
    flask.config.update(
        RQ_DASHBOARD_REDIS_URL=(shown_url,), RQ_DASHBOARD_POLL_INTERVAL=5000, RQ_DASHBOARD_DISABLE_DELETE=False
    )
    flask.redis_conn = connect_queue(url)  # type: ignore[attr-defined]  # where the dashboard looks for it
    mounted: Any = dashboard.blueprint
    # It would connect again, with options of its own, to the address of its configuration.
    mounted.before_request_funcs.clear()
    # On the application and not on the blueprint, which is a global that refuses changes once it is in use.
    flask.before_request(_guard)
    flask.context_processor(lambda: {"nonce": g.nonce})
    flask.register_blueprint(mounted, url_prefix=PREFIX)
    for endpoint, view in list(flask.view_functions.items()):
        if endpoint.startswith("rq_dashboard."):
            flask.view_functions[endpoint] = _answering(endpoint.removeprefix("rq_dashboard."), view)
    flask.jinja_env.loader = ChoiceLoader([_escaped_templates(), _loader(flask)])
    flask.register_error_handler(NoSuchJobError, _unknown)
    flask.register_error_handler(InvalidJobOperation, _refused)


def _guard() -> None:
    """In front of each of the dashboard's routes."""
    if request.blueprint != "rq_dashboard":
        return
    arguments = request.view_args or {}
    if arguments.get("instance_number", 0) != 0:
        abort(404)
    if request.endpoint == "rq_dashboard.requeue_all" and request.method != "POST":
        abort(405)
    if request.method not in ("GET", "HEAD"):
        require_operator()
    registry = arguments.get("registry_name")
    if registry is not None and registry not in _REGISTRIES:
        abort(404)
    for name in ("per_page", "page"):
        value = str(arguments.get(name, 1))
        if not value.isdigit() or not 1 <= int(value) <= (_MOST_PER_PAGE if name == "per_page" else 10**6):
            abort(404)


def _answering(name: str, view: Callable[..., Any]) -> Callable[..., Any]:
    """The dashboard's view, with an answer also where what is in Redis is not as RQ writes it."""

    @wraps(view)
    def answer(**arguments: Any) -> Any:
        try:
            return view(**arguments)
        except (HTTPException, NoSuchJobError, InvalidJobOperation):
            raise
        except (redis.ConnectionError, redis.TimeoutError):
            return render_template("error.html", title="Redis does not answer", text="Try again in a moment."), 503
        except Exception as error:  # noqa: BLE001 - whatever RQ raises over a hash that somebody else wrote
            if name == "compact_queue" and isinstance(error, redis.ResponseError) and "no such key" in str(error):
                return {"status": "OK"}  # an empty queue is compact
            logger.opt(exception=error).warning("the dashboard's {} cannot use what is in Redis", name)
            told = "What is in Redis is not as RQ writes it; the console's log says where."
            return render_template("error.html", title="Not possible", text=told), 409

    return answer


def _unknown(_: Exception) -> ResponseReturnValue:
    return render_template("error.html", title="Not Found", text="There is no such job (any more)."), 404


def _refused(error: Exception) -> ResponseReturnValue:
    return render_template("error.html", title="Not possible", text=str(error)), 409


def _loader(flask: Flask) -> BaseLoader:
    loader = flask.jinja_env.loader
    assert loader is not None  # noqa: S101 - Flask always sets one
    return loader


def _escaped_templates() -> BaseLoader:
    """The dashboard's own templates, whose every insertion is escaped, and whose scripts carry the page's nonce."""
    original = PackageLoader("rq_dashboard")
    environment = Environment(autoescape=True)  # only read from

    def load(name: str) -> tuple[str, str | None, Callable[[], bool] | None] | None:
        if not name.startswith("rq_dashboard/"):
            return None
        source, path, fresh = original.get_source(environment, name)
        return escaped(source), path, fresh

    return FunctionLoader(load)


def escaped(source: str) -> str:
    """A template of the dashboard with raw insertions turned into escaped ones."""
    source = re.sub(r"\$\('<div/>'\)\.text\(([^)]*)\)\.html\(\)", r"\1", source)
    source = source.replace("<%=", "<%-")
    source = re.sub(r"<script(?![^>]*text/template)", '<script nonce="{{ nonce }}"', source)
    source = source.replace("</head>", f"{_OUR_HEAD}</head>").replace("<body>", f"<body>{_WAY_BACK}")
    source = source.replace('id="rq-instances"', 'id="rq-instances" aria-label="Redis"')
    source = source.replace('<div class="container">', '<div class="container" role="main">')
    header = "$.ajaxSetup({headers: {'X-CSRF-Token': {{ csrf_token | tojson }}}});\n"
    return source.replace("var POLL_INTERVAL", header + "var POLL_INTERVAL")


_OUR_HEAD = """<link rel="stylesheet" href="{{ url_for('static', filename='jobs.css') }}">"""
_WAY_BACK = (
    """<p class="way-back"><a href="{{ url_for('jobs.overview') }}">\N{LEFTWARDS ARROW} Signal Refinery</a></p>"""
)
_REGISTRIES = frozenset({"queued", "failed", "deferred", "started", "finished", "scheduled", "canceled"})
