"""What operators decide about models: looked at on GET, done on POST, through the code behind the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from loguru import logger

from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.model_registry import model_before, roll_back
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.console.access.security import actor, require_operator
from worker.console.pages import model_or_404, model_type
from worker.console.queries import console_queries
from worker.errors import RefineryError
from worker.installation import open_store

blueprint = Blueprint("actions", __name__)


@blueprint.before_request
def _operators_only() -> None:
    require_operator()


@contextmanager
def _store() -> Iterator[FeatureDatabase]:
    """A connection that writes, for this one action."""
    with open_store(console_queries().settings) as store:
        yield store


@blueprint.get("/models/<model_id>/activate")
def activate_form(model_id: str) -> ResponseReturnValue:
    """What activating would do. Changes nothing."""
    row = model_or_404(model_id)
    active = console_queries().store.models.active(row.metadata.model_type.value)
    return render_template("activate.html", row=row, active=active, rollback=False)


@blueprint.get("/models/rollback")
def rollback_form() -> ResponseReturnValue:
    """What rolling back would do. Changes nothing."""
    store, kind = console_queries().store, model_type()
    earlier = model_before(store, kind)
    if earlier is None:
        abort(409, "There is no model to roll back to.")
    active = store.models.active(kind.value)
    return render_template("activate.html", row=model_or_404(earlier), active=active, rollback=True)


@blueprint.post("/models/rollback")
def rollback() -> ResponseReturnValue:
    """Let the model that served before serve again, if the one that serves is still the one the operator saw."""
    settings, kind = console_queries().settings, model_type()
    with _store() as store:
        if store.models.active_id(kind.value) != request.form.get("active"):
            abort(409, "Another model serves by now than the one you saw.")
        registry = ModelRegistry.from_config(settings.to_ml_config(), store)
        _, now = roll_back(store, registry, kind, reason=_why(), actor=actor(), pin=_pinned())
    flash(f"{now} serves from the next batch on.")
    return redirect(url_for("pages.models"))


def _pinned() -> bool:
    return bool(request.form.get("pin"))


@blueprint.post("/models/<model_id>/unpin")
def unpin(model_id: str) -> ResponseReturnValue:
    """Let trainings replace a pinned model again, if it is still the one that the operator saw."""
    kind = model_or_404(model_id).metadata.model_type.value
    with _store() as store, store.atomic():
        pinned = store.models.pinned(kind)
        if pinned is None or pinned.model_id != model_id:
            abort(409, f"{model_id} is not pinned any more.")
        store.models.unpin(kind, reason="by hand", actor=actor())
    flash(f"{model_id} is not pinned any more: a training that passes the gate takes its place.")
    return redirect(url_for("pages.model", model_id=model_id))


def _why() -> str:
    return request.form.get("why", "").strip()[:500] or "no reason given"


@blueprint.post("/models/<model_id>/activate")
def activate(model_id: str) -> ResponseReturnValue:
    """Let a model serve, if the one that serves is still the one the operator saw.

    Raises:
        RefineryError: its file is refused.
    """
    settings = console_queries().settings
    why = _why()
    seen: Any = request.form.get("active") or None
    model_or_404(model_id)
    with _store() as store:
        registry = ModelRegistry.from_config(settings.to_ml_config(), store)
        try:
            registry.promote(model_id, reason=why, expected_active=seen, actor=actor(), pin=_pinned())
        except ModelFileRefused as error:
            raise RefineryError(f"{model_id} was not activated: {error}") from error
    logger.info("model {} was activated by {}: {}", model_id, actor(), why)
    flash(f"{model_id} serves from the next batch on.")
    return redirect(url_for("pages.models"))
