"""Who may look, who may change, and what a browser is told about a page.

Without passwords the console listens on this machine only and whoever is on it is its operator; the name in the
browser's address bar is then checked, so that no web page elsewhere can speak for that browser.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import deque
from typing import Final, Literal
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    g,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue

from worker.settings.redis_url import is_loopback
from worker.settings.schema import Settings

Role = Literal["viewer", "operator"]

blueprint = Blueprint("security", __name__)

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN_ENDPOINTS: Final = frozenset({"security.login", "static"})
_TRIES, _TRIES_WITHIN_S = 10, 60.0

_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: The RQ dashboard writes scripts into its pages (ours carry a nonce) and compiles its templates in the browser.
_CSP_JOBS: Final = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)


class Guesses:
    """Limits how fast passwords can be tried, over all who try."""

    def __init__(self) -> None:
        self._failed: deque[float] = deque(maxlen=_TRIES)
        self._turn = threading.Lock()

    def too_many(self) -> bool:
        """Whether the last tries all failed, and not long ago."""
        with self._turn:
            return len(self._failed) == _TRIES and time.monotonic() - self._failed[0] < _TRIES_WITHIN_S

    def failed(self) -> None:
        """A wrong password."""
        with self._turn:
            self._failed.append(time.monotonic())


def register(flask: Flask, settings: Settings) -> None:
    """Guard every route of the application, those of mounted blueprints too."""
    passwords: dict[Role, bytes] = {}
    for role, secret in (
        ("operator", settings.console_operator_password),
        ("viewer", settings.console_viewer_password),
    ):
        if secret is not None:
            passwords[role] = secret.get_secret_value().encode()  # type: ignore[index]
    flask.extensions["refinery.passwords"] = passwords
    flask.extensions["refinery.guesses"] = Guesses()
    flask.register_blueprint(blueprint)
    flask.before_request(_guard)
    flask.after_request(_headers)

    @flask.context_processor
    def _who() -> dict[str, object]:
        return {"csrf_token": token(), "role": getattr(g, "role", None), "with_login": bool(passwords)}


def token() -> str:
    """This session's CSRF token."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(32)
    return str(session["csrf"])


def actor() -> str:
    """Who acts, for the audit."""
    return f"console ({g.role})"


def require_operator() -> None:
    """Refuse whoever may only look."""
    if g.role != "operator":
        abort(403, "Only operators may do that.")


def _guard() -> ResponseReturnValue | None:
    passwords: dict[Role, bytes] = current_app.extensions["refinery.passwords"]
    g.nonce = secrets.token_urlsafe(16)
    if not passwords and not is_loopback(urlsplit(f"//{request.host}").hostname or ""):
        abort(421, "This console answers to the names of this machine only.")
    g.role = session.get("role") if passwords else "operator"
    if g.role not in (*passwords, *(() if passwords else ("operator",))):
        g.role = None
    if request.method not in _SAFE_METHODS:
        _same_origin()
    if request.endpoint in _OPEN_ENDPOINTS or g.role is not None:
        return None
    if request.method in _SAFE_METHODS:
        return redirect(url_for("security.login", next=request.full_path if request.path != "/" else None))
    return abort(401, "Sign in first.")


def _same_origin() -> None:
    origin = request.headers.get("Origin") or request.headers.get("Referer") or ""
    if urlsplit(origin).netloc != request.host:
        abort(403, "This came from another page than the console's own.")
    sent = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token") or ""
    if not hmac.compare_digest(sent.encode(), token().encode()):
        abort(403, "This form is out of date: go back, reload the page, and try again.")


@blueprint.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Ask for a password; which one it is decides the role."""
    passwords: dict[Role, bytes] = current_app.extensions["refinery.passwords"]
    guesses: Guesses = current_app.extensions["refinery.guesses"]
    if not passwords:
        return redirect(url_for("pages.overview"))
    if request.method == "GET":
        return render_template("login.html", wrong=None)
    if guesses.too_many():
        return render_template("login.html", wrong="Too many wrong passwords: wait a minute."), 429
    given = request.form.get("password", "").encode()
    roles = [role for role, password in passwords.items() if hmac.compare_digest(given, password)]
    if not roles:
        guesses.failed()
        return render_template("login.html", wrong="That is not a password of this console."), 401
    session.clear()
    session.permanent = True
    session["role"] = roles[0]
    return redirect(_inside(request.args.get("next", "")))


@blueprint.route("/logout", methods=["POST"])
def logout() -> ResponseReturnValue:
    """Forget the session."""
    session.clear()
    return redirect(url_for("security.login"))


def _inside(path: str) -> str:
    """`path` when it leads to a page of ours, else the overview."""
    parts = urlsplit(path)
    ours = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme
    return path if ours else url_for("pages.overview")


def _headers(response: Response) -> Response:
    jobs = request.path.startswith("/jobs/rq")
    policy = _CSP_JOBS.format(nonce=getattr(g, "nonce", "")) if jobs else _CSP
    response.headers.setdefault("Content-Security-Policy", policy)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "SAMEORIGIN" if jobs else "DENY"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response
