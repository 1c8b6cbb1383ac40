"""The ways out: PagerDuty's Events API v2, a webhook, mail, and the heartbeat that an outside monitor waits for.

Each takes a message (docs/incidents.md) and says what became of it; none raises, each has a deadline. What PagerDuty
answers means what its reference says: 202 taken, 400 never try again, 429, 5xx and no answer: later.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import smtplib
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any

from lifeline.contacts import TITLES, Email, PagerDuty, Webhook
from lifeline.outbox import Message, Sent

WITHIN_S = 10.0
SUMMARY, DEDUP = 1024, 255  # PagerDuty's limits, in characters
LATER_S = 0.0
HOPELESS = (400, 413, 422)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry what is secret to somewhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """Made when first used: it reads every certificate of the system."""
    return urllib.request.build_opener(_NoRedirect)


def to_pagerduty(where: PagerDuty, level: str, message: Message) -> Sent:
    """Trigger, acknowledge or resolve; the same ``dedup_key`` is the same alert there."""
    key = where.keys.get(level)
    if key is None:
        return Sent(False, f"there is no integration key for {level}")
    return _post(where.events_url, json.dumps(pagerduty_event(key, message)).encode(), {}, taken=(202,))


def pagerduty_event(key: str, message: Message) -> dict[str, Any]:
    """The body of POST /v2/enqueue."""
    event = {"routing_key": key, "event_action": message["action"], "dedup_key": str(message["dedup"])[:DEDUP]}
    if message["action"] != "trigger":
        return event
    details = {name: message[name] for name in ("happened", "done", "needed") if message.get(name)}
    return {
        **event,
        "payload": {
            **{"summary": str(message["summary"])[:SUMMARY], "severity": message["severity"]},
            **{"source": message["source"], "timestamp": message["at"], "component": message["service"]},
            **{"group": message["stack"], "class": message["kind"], "custom_details": details},
        },
        "client": "Lifeline",
    }


def acknowledged_at_pagerduty(where: PagerDuty, dedup: str) -> str:
    """Who acknowledged it there ("" for nobody, or when it can't be told): the Events API only takes, so this asks the
    REST API, which finds incidents by the key of their alerts."""
    if where.api_token is None:
        return ""
    query = urllib.parse.urlencode({"incident_key": dedup, "statuses[]": "acknowledged"})
    request = urllib.request.Request(
        f"{where.api_url}/incidents?{query}",
        headers={
            "Authorization": f"Token token={where.api_token}",
            "Accept": "application/vnd.pagerduty+json;version=2",
        },
    )
    try:
        with _opener().open(request, timeout=WITHIN_S) as answer:
            found = json.loads(answer.read())["incidents"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    for one in found:
        if one.get("status") == "acknowledged":
            by = [entry.get("acknowledger") or {} for entry in one.get("acknowledgements") or ()]
            names = [str(who.get("summary")) for who in by if who.get("summary")]
            return f"pagerduty:{', '.join(names) or 'somebody'}"
    return ""


def to_webhook(where: Webhook, message: Message) -> Sent:
    """The message as JSON; signed, where there is a secret: X-Lifeline-Signature: sha256=HMAC of the body."""
    body = json.dumps(message, ensure_ascii=False).encode()
    headers = {"X-Lifeline-Id": hashlib.sha256(body).hexdigest()[:32]}
    if where.secret:
        signature = hmac.new(where.secret.encode(), body, hashlib.sha256).hexdigest()
        headers["X-Lifeline-Signature"] = f"sha256={signature}"
    return _post(where.url, body, headers, taken=range(200, 300))


def by_email(where: Email, message: Message) -> Sent:
    """To the addresses of the message's level; of one without a level, the on-call's."""
    level = message.get("level") or "on-call"
    to = where.to.get(str(level)) or ()
    if not to:
        return Sent(True)  # nobody of that level reads mail
    mail = email(where, tuple(to), message)
    try:
        with _mail_server(where) as server:
            if where.user:
                server.login(where.user, where.password or "")
            server.send_message(mail)
    except (smtplib.SMTPAuthenticationError, smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused) as error:
        # Even these may be mended by somebody at the server; a mail isn't worth dropping an alert for.
        return Sent(False, f"the mail server refuses: {_code(error)}", LATER_S)
    except (smtplib.SMTPException, OSError) as error:
        return Sent(False, f"the mail server: {type(error).__name__}", LATER_S)
    return Sent(True)


def email(where: Email, to: tuple[str, ...], message: Message) -> EmailMessage:
    """Plain text: it opens on whatever somebody has at hand."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Date"] = where.sender, ", ".join(to), formatdate()
    mark = {"resolve": "OVER: ", "acknowledge": "acknowledged: "}.get(str(message["action"]), "")
    mail["Subject"] = " ".join(f"{mark}{message['summary']}".split())[:200]
    thread = hashlib.sha256(str(message["dedup"]).encode()).hexdigest()[:24]
    mail["References"] = f"<{thread}@lifeline>"  # all of one incident in one thread
    mail.set_content(text(message))
    return mail


def text(message: Message) -> str:
    """What happened, what was done, what is needed."""
    parts = [str(message["summary"])]
    for name, title in (("happened", "What happened"), ("done", "What was done"), ("needed", "What is needed")):
        if lines := message.get(name):
            parts.append("\n".join([f"{title}:", *(f"  - {line}" for line in lines)]))
    level = TITLES.get(str(message.get("level")), "")
    parts.append(f"{message['at']}, {message['source']}, {message['dedup']}{f', to the {level}' if level else ''}")
    return "\n\n".join(parts) + "\n"


def beat(url: str, host: str) -> str:
    """Ask for the monitor's URL; why that failed, or ""."""
    try:
        with _opener().open(url.replace("{host}", urllib.parse.quote(host, safe="")), timeout=WITHIN_S) as answer:
            answer.read(1)
    except (OSError, ValueError) as error:
        return _network(error)
    return ""


def _mail_server(where: Email) -> smtplib.SMTP:
    if where.tls == "tls":
        return smtplib.SMTP_SSL(where.host, where.port, timeout=WITHIN_S, context=ssl.create_default_context())
    server = smtplib.SMTP(where.host, where.port, timeout=WITHIN_S)
    if where.tls == "starttls":
        try:
            server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
    return server


def _post(url: str, body: bytes, headers: Mapping[str, str], taken: range | tuple[int, ...]) -> Sent:
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers}, method="POST")
        with _opener().open(request, timeout=WITHIN_S) as answer:
            status, said, retry = answer.status, answer.read(2000), None
    except urllib.error.HTTPError as error:
        status, said, retry = error.code, error.read(2000), error.headers.get("Retry-After")
    except (OSError, ValueError) as error:
        return Sent(False, _network(error), LATER_S)
    if status in taken:
        return Sent(True)
    says = f"HTTP {status}{f': {_words(said)}' if said else ''}"
    # Only what says that the message itself is wrong isn't tried again: a key or a path can be mended meanwhile.
    return Sent(False, says, None if status in HOPELESS else _seconds(retry))


def _seconds(retry: str | None) -> float:
    """Retry-After in seconds; a date or nonsense: as we choose ourselves."""
    return float(retry) if retry is not None and retry.isdigit() else LATER_S


def _words(said: bytes) -> str:
    """What a provider says is wrong, in a line."""
    try:
        answer = json.loads(said)
        errors = answer.get("errors") or []
        return " ".join([str(answer.get("message", "")), *map(str, errors)]).strip()[:200]
    except (ValueError, AttributeError):
        return ""


def _network(error: Exception) -> str:
    """Never the URL: it may be the secret."""
    reason = getattr(error, "reason", None)
    return f"no answer: {type(reason).__name__ if isinstance(reason, Exception) else type(error).__name__}"


def _code(error: smtplib.SMTPException) -> str:
    return str(getattr(error, "smtp_code", "") or type(error).__name__)
