"""Who may look, who may change, and what a browser is told about a page.

Without passwords the console listens on this machine only and whoever is on it is its operator; the name in the
browser's address bar is then checked, so that no web page elsewhere can speak for that browser.
"""

from __future__ import annotations

import hmac
import math
import secrets
from typing import Any, Final
from urllib.parse import urlsplit

import redis
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
from flask.sessions import SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from itsdangerous import SignatureExpired, TimestampSigner, URLSafeTimedSerializer

from worker.console.access.compression import masked, unmasked
from worker.console.access.keys import Keys
from worker.console.access.sessions import Sessions, SignInTries, Visitor
from worker.console.access.shared_sessions import SharedSessions
from worker.settings.redis_url import is_loopback
from worker.settings.schema import Settings

blueprint = Blueprint("security", __name__)

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN_ENDPOINTS: Final = frozenset({"security.login", "static"})

_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: The RQ dashboard writes scripts into its pages (ours carry a nonce) and compiles its templates in the browser.
_CSP_JOBS: Final = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class _Signer(TimestampSigner):
    """Signs cookies as Flask does, and takes those of a replica whose clock is ahead of this one's."""

    def unsign(self, signed_value: str | bytes, max_age: int | None = None, return_timestamp: bool = False) -> Any:
        """What was signed, as the parent's.

        Raises:
            BadSignature: it was not signed by us, or longer than `max_age` seconds ago.
        """
        value, signed_at = super().unsign(signed_value, return_timestamp=True)
        if max_age is not None and self.get_timestamp() - signed_at.timestamp() > max_age:
            raise SignatureExpired("too old", payload=value, date_signed=signed_at)
        return (value, signed_at) if return_timestamp else value


class _Cookies(SecureCookieSessionInterface):
    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        """As the parent's, with our signer."""
        serializer = super().get_signing_serializer(app)
        if serializer is not None:
            serializer.signer = _Signer
        return serializer


def register(flask: Flask, settings: Settings, client: redis.Redis) -> None:
    """Guard every route of the application, those of mounted blueprints too."""
    keys = flask.extensions["refinery.keys"] = Keys.of(settings)
    signing = settings.console_secrets
    flask.extensions["refinery.sessions"] = SharedSessions(keys, signing, client) if signing else Sessions()
    flask.session_interface = _Cookies()
    flask.extensions["refinery.tries"] = SignInTries()
    flask.register_blueprint(blueprint)
    flask.before_request(_guard)
    flask.after_request(_headers)

    @flask.context_processor
    def _who() -> dict[str, object]:
        visitor: Visitor | None = getattr(g, "visitor", None)
        return {"csrf_token": token(), "role": visitor.role if visitor else None, "visitor": visitor, "keys": keys}


def token() -> str:
    """This session's CSRF token, as a page may hold it: another text in each."""
    return masked(_token())


def _token() -> str:
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(32)
    return str(session["csrf"])


def actor() -> str:
    """Who acts, for the audit."""
    return f"console ({g.visitor.name or g.visitor.role})"


def require_operator() -> None:
    """Refuse whoever may only look."""
    if g.visitor.role != "operator":
        abort(403, "Only operators may do that.")


def _guard() -> ResponseReturnValue | None:
    keys: Keys = current_app.extensions["refinery.keys"]
    g.nonce = secrets.token_urlsafe(16)
    if keys.is_open and not is_loopback(urlsplit(f"//{request.host}").hostname or ""):
        abort(421, "This console answers to the names of this machine only.")
    sessions: Sessions | SharedSessions = current_app.extensions["refinery.sessions"]
    g.visitor = Visitor("operator") if keys.is_open else sessions.visitor(session.get("name"))
    if request.method not in _SAFE_METHODS:
        _same_origin()
    if request.endpoint in _OPEN_ENDPOINTS or g.visitor is not None:
        return None
    if request.method in _SAFE_METHODS:
        here = request.script_root + request.full_path
        return redirect(url_for("security.login", next=here if request.path != "/" else None))
    return abort(401, "Sign in first.")


def _same_origin() -> None:
    origin = request.headers.get("Origin") or request.headers.get("Referer") or ""
    if not _same_host(origin, request.host):
        abort(403, "This came from another page than the console's own.")
    sent = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token") or ""
    if not hmac.compare_digest(unmasked(sent).encode(), _token().encode()):
        abort(403, "This form is out of date: go back, reload the page, and try again.")


def _same_host(origin: str, host: str) -> bool:
    """Whether a page of `origin` is one of ours. A proxy may hand on `Host` without the port, or with the usual one."""
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"//{host}")
        usual = {"http": 80, "https": 443}.get(theirs.scheme)
        port = theirs.port or usual
        same_port = ours.port in (None, port)
    except ValueError:
        return False
    return usual is not None and theirs.hostname is not None and theirs.hostname == ours.hostname and same_port


@blueprint.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Ask for a password, and for a name where users have them; they decide the role."""
    keys: Keys = current_app.extensions["refinery.keys"]
    sessions: Sessions | SharedSessions = current_app.extensions["refinery.sessions"]
    tries: SignInTries = current_app.extensions["refinery.tries"]
    address = request.remote_addr or ""
    if keys.is_open:
        return redirect(url_for("pages.overview"))
    if request.method == "GET":
        return render_template("login.html", wrong=None)
    if wait_s := math.ceil(tries.wait_s(address)):
        wrong = f"Too many wrong passwords from your address: wait {wait_s} s."
        return render_template("login.html", wrong=wrong), 429, {"Retry-After": str(wait_s)}
    visitor = keys.visitor(request.form.get("user", "").strip(), request.form.get("password", ""))
    if visitor is None:
        tries.failed(address)
        wrong = "Name and password do not fit." if keys.names else "That is not a password of this console."
        return render_template("login.html", wrong=wrong), 401
    tries.succeeded(address)
    sessions.close(session.get("name"))
    session.clear()
    session.permanent = True
    session["name"] = sessions.open(visitor)
    return redirect(inside(request.args.get("next", "")))


@blueprint.route("/logout", methods=["POST"])
def logout() -> ResponseReturnValue:
    """End the session, also for whoever has a copy of its cookie."""
    sessions: Sessions | SharedSessions = current_app.extensions["refinery.sessions"]
    sessions.close(session.get("name"))
    session.clear()
    return redirect(url_for("security.login"))


def inside(path: str) -> str:
    """`path` when it leads to a page of ours, else the overview."""
    parts = urlsplit(path)
    ours = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme
    return path if ours else url_for("pages.overview")


def _headers(response: Response) -> Response:
    jobs = request.path.startswith("/jobs/rq")
    policy = _CSP_JOBS.format(nonce=getattr(g, "nonce", "")) if jobs else _CSP
    response.headers.setdefault("Content-Security-Policy", policy)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response
