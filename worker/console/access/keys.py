"""Which names and passwords open the console, as its settings say, and for whom."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from worker.console.access.sessions import Role, Visitor
from worker.errors import ConfigurationError
from worker.settings.passwords import SHORTEST_PASSWORD, is_password_hash, password_matches
from worker.settings.redis_url import is_loopback
from worker.settings.schema import Settings

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
#: Names that the audit gives to those without one.
_TAKEN: Final = ("operator", "viewer")
#: Compared with where there is no such name, so that the time of an answer does not tell which names there are.
_NOBODYS: Final = f"scrypt:16384:8:1:{'A' * 22}:{'A' * 43}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Named users by name, each with a role and a hash; passwords that are shared, by role."""

    names: Mapping[str, tuple[Role, str]]
    shared: Mapping[Role, bytes]

    @classmethod
    def of(cls, settings: Settings) -> Keys:
        """Those of the settings."""
        names: dict[str, tuple[Role, str]] = {}
        shared: dict[Role, bytes] = {}
        for role, users, password in _by_role(settings):
            names |= {name: (role, hashed.get_secret_value()) for name, hashed in users.items()}
            if password is not None:
                shared[role] = password.get_secret_value().encode()
        return cls(names, shared)

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for anything."""
        return not self.names and not self.shared

    def mark(self, visitor: Visitor, secret: str) -> str:
        """What changes when a visitor's password does; it tells nothing about it to those without the secret.

        Empty where the visitor could not sign in now.
        """
        if visitor.name is None:
            key = self.shared.get(visitor.role, b"")
        else:
            role, hashed = self.names.get(visitor.name, ("viewer", ""))
            key = hashed.encode() if role == visitor.role else b""
        if not key:
            return ""
        return hmac.new(secret.encode(), key, "sha256").hexdigest()

    def visitor(self, name: str, password: str) -> Visitor | None:
        """Who signs in with these; None when they do not fit."""
        if name:
            role, hashed = self.names.get(name, ("viewer", _NOBODYS))
            fits = password_matches(password, hashed)
            return Visitor(role, name) if fits and name in self.names else None
        given = password.encode("utf-8", "surrogatepass")
        roles = [role for role, wanted in self.shared.items() if hmac.compare_digest(given, wanted)]
        return Visitor(roles[0]) if roles else None


def check_exposure(settings: Settings) -> None:
    """Refuse what would let strangers in.

    Raises:
        ConfigurationError: it would.
    """
    for role, users, password in _by_role(settings):
        _check_users(role, users)
        if password is not None and len(password.get_secret_value()) < SHORTEST_PASSWORD:
            raise ConfigurationError(
                f"REFINERY_CONSOLE_{role.upper()}_PASSWORD: must have at least {SHORTEST_PASSWORD} characters"
            )
    if twice := sorted(settings.console_operators.keys() & settings.console_viewers.keys()):
        raise ConfigurationError(f"REFINERY_CONSOLE_VIEWERS: {twice[0]!r} is an operator already")
    operator, viewer = settings.console_operator_password, settings.console_viewer_password
    has_operator = operator is not None or bool(settings.console_operators)
    if not has_operator and (viewer is not None or settings.console_viewers):
        name = "VIEWERS" if settings.console_viewers else "VIEWER_PASSWORD"
        raise ConfigurationError(
            f"REFINERY_CONSOLE_{name}: needs REFINERY_CONSOLE_OPERATOR_PASSWORD or REFINERY_CONSOLE_OPERATORS beside it"
        )
    if operator and viewer and operator.get_secret_value() == viewer.get_secret_value():
        raise ConfigurationError("REFINERY_CONSOLE_VIEWER_PASSWORD: must be another than the operator's")
    if not has_operator and not is_loopback(settings.console_host):
        raise ConfigurationError(
            f"REFINERY_CONSOLE_HOST={settings.console_host!r}: others could reach the console, "
            "so REFINERY_CONSOLE_OPERATOR_PASSWORD must be set, or REFINERY_CONSOLE_OPERATORS"
        )


def _check_users(role: Role, users: Mapping[str, SecretStr]) -> None:
    setting = f"REFINERY_CONSOLE_{role.upper()}S"
    for name, hashed in users.items():
        if not _NAME.fullmatch(name) or name.lower() in _TAKEN:
            allowed = f"up to 64 letters, digits, and ._@-, and not {' or '.join(_TAKEN)}"
            raise ConfigurationError(f"{setting}: {name[:64]!r} is no name of a user ({allowed})")
        if not is_password_hash(hashed.get_secret_value()):
            raise ConfigurationError(f"{setting}: what {name!r} has is no hash: `refinery hash-password` makes one")


def _by_role(settings: Settings) -> tuple[tuple[Role, Mapping[str, SecretStr], SecretStr | None], ...]:
    return (
        ("operator", settings.console_operators, settings.console_operator_password),
        ("viewer", settings.console_viewers, settings.console_viewer_password),
    )
