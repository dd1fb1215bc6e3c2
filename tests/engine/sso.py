"""Login, logout, and the life of a session.

The token endpoint takes a form with the scope `ovirt-app-api` and an Accept header that is exactly
`application/json`. Every error is a 400 in one of two shapes, depending on the scope. A session ends after
too much idle time, at its user's logout, or by a switch; the token's `exp` never tells when. A request
without a living session gets a 401 with an HTML body.
"""

import base64
import binascii
import secrets
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

from wire import Answer

APP_SCOPE = "ovirt-app-api"
NEVER = "9223372036854775807"
UNAUTHORIZED = b"<html><head><title>Error</title></head><body>Unauthorized</body></html>"


@dataclass
class Session:
    user: str
    token: str
    requests: int = 0
    opened: float = field(default_factory=time.time)
    used: float = field(default_factory=time.monotonic)


class Sso:
    def __init__(self, users, idle_limit, switches, journal):
        self._users = users
        self._idle_limit = idle_limit
        self._switches = switches
        self._journal = journal
        self._sessions = {}
        self._tokens = []
        self._lock = threading.Lock()

    def token(self, headers, form):
        scope = form.get("scope", "")
        if headers.get("Accept") != "application/json":
            return self._refuse(scope, "invalid_request", "The request has an unsupported Accept header")
        if "grant_type" not in form:
            return self._refuse(scope, "invalid_request", "Missing parameter: 'grant_type'")
        if form["grant_type"] != "password":
            message = f"Unsupported grant type {form['grant_type']}"
            return self._refuse(scope, "unsupported_grant_type", message)
        user, password = form.get("username", ""), form.get("password", "")
        code = self._switches.take("login_refused", user)
        if code:
            return self._refuse(
                scope, code, f"Cannot authenticate user {user}: refused by the identity provider."
            )
        if "@" not in user:
            return self._refuse(
                scope, "access_denied", f"Cannot authenticate user {user}: no profile in the name."
            )
        if self._users.get(user) != password:
            message = f"Cannot authenticate user {user}: The username or password is incorrect."
            return self._refuse(scope, "access_denied", message)
        session = self._open(user)
        answer = {"access_token": session.token, "scope": scope, "exp": NEVER, "token_type": "bearer"}
        return Answer.json(200, answer)

    def negotiate(self):
        """Answers for the Kerberos endpoint: the stand-in has no Kerberos."""
        return Answer(401, UNAUTHORIZED, "text/html;charset=UTF-8", {"WWW-Authenticate": "Negotiate"})

    def logout(self, form):
        with self._lock:
            session = self._sessions.pop(form.get("token"), None)
        if session:
            self._journal.event("session_closed", user=session.user)
        return Answer.json(200, {})

    def authenticate(self, headers, subject):
        """Returns the user of a request, or None."""
        kind, _, credential = headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            return self._basic(credential)
        if kind.lower() != "bearer":
            return None
        with self._lock:
            session = self._sessions.get(credential)
            if session is None or not self._lives(session, subject):
                self._sessions.pop(credential, None)
                return None
            session.used = time.monotonic()
            session.requests += 1
            return session.user

    def expire_all(self):
        with self._lock:
            count = len(self._sessions)
            self._sessions.clear()
        self._journal.event("sessions_expired", count=count)
        return count

    def unauthorized(self):
        challenge = {"WWW-Authenticate": 'Basic realm="RESTAPI"'}
        return Answer(401, UNAUTHORIZED, "text/html;charset=UTF-8", challenge, error="no session")

    def dump(self):
        with self._lock:
            return [
                {"user": one.user, "token": one.token, "opened": one.opened, "requests": one.requests}
                for one in self._sessions.values()
            ]

    def tokens(self):
        """Returns every token that was ever given out."""
        with self._lock:
            return list(self._tokens)

    def _lives(self, session, subject):
        limit = self._switches.take("token_requests", subject)
        return not (
            time.monotonic() - session.used > self._idle_limit
            or (limit is not None and session.requests >= limit)
            or self._switches.take("token_expired", subject)
        )

    def _open(self, user):
        session = Session(user, secrets.token_urlsafe(64))
        with self._lock:
            self._sessions[session.token] = session
            self._tokens.append(session.token)
        self._journal.event("session_opened", user=user)
        return session

    def _basic(self, credential):
        try:
            user, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return user if self._users.get(user) == password else None

    def _refuse(self, scope, code, message):
        if scope == APP_SCOPE and not self._switches.take("sso_oauth_shape"):
            fault = {"error_code": code, "error": message}
        else:
            fault = {"error": code, "error_description": message}
        return Answer.json(400, fault, error=message)


def parse_form(body):
    return dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
