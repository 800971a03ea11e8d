"""Mails to people: where they go, and the queue that nobody has to wait for.

Whether an address is known shows in nothing a caller can see, the time an answer takes included.
So what needs a mail is put into a queue as a letter that is not written yet: `run` looks up what
it needs, writes and sends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import smtplib
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Protocol, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from aegis.errors import AegisError

log = logging.getLogger(__name__)

_WAITING_MAX = 1000
_SMTP_SECONDS = 20.0
# Mail servers turn strangers away once on purpose, and are back after a restart.
_PAUSES_SECONDS = (2.0, 30.0)


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one person; its repr tells nobody's address and no token."""

    to: str = field(repr=False)
    subject: str
    text: str = field(repr=False)


class MailNotSent(Exception):
    """A mail could not be handed over; trying again may help."""


class MailRefused(MailNotSent):
    """A mail was not taken, and will not be."""


class Mailer(Protocol):
    """Hands a mail over."""

    async def send(self, mail: Mail) -> None:
        """Returns once somebody else is responsible for it.

        Raises `MailNotSent`; as `MailRefused` when there is no point in trying again.
        """


@dataclass(frozen=True, slots=True)
class Smtp:
    """A mail server that speaks STARTTLS; without it nothing is said, least of all the password.

    `roots` is a PEM file for a server with a certificate of a private authority.
    """

    host: str
    port: int
    sender: str
    user: str = ""
    password: str = field(default="", repr=False)
    roots: Path | None = None

    async def send(self, mail: Mail) -> None:
        """Sends over a connection of its own."""
        # The text of a refusal often repeats the address, so its kind has to do.
        try:
            await asyncio.to_thread(self._send, mail)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, ValueError) as error:
            raise MailRefused(f"{self.host}:{self.port}: {type(error).__name__}") from None
        except (smtplib.SMTPException, OSError) as error:
            raise MailNotSent(f"{self.host}:{self.port}: {type(error).__name__}") from None

    def _send(self, mail: Mail) -> None:
        message = _message(mail, self.sender)
        trusted = ssl.create_default_context(cafile=str(self.roots) if self.roots else None)
        with smtplib.SMTP(self.host, self.port, timeout=_SMTP_SECONDS) as connection:
            connection.starttls(context=trusted)
            if self.user:
                connection.login(self.user, self.password)
            connection.send_message(message)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that gets a file a mail, readable by its owner alone: for one's own machine."""

    path: Path
    sender: str = "aegis@localhost"

    async def send(self, mail: Mail) -> None:
        """Writes the file, whole or not at all."""
        try:
            await asyncio.to_thread(self._write, _message(mail, self.sender).as_bytes())
        except (OSError, ValueError) as error:
            raise MailRefused(f"{self.path}: {type(error).__name__}") from None

    def _write(self, content: bytes) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Names in the order of sending.
        name = f"{time.time_ns()}.eml"
        fresh = self.path / f".{name}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        fresh.rename(self.path / name)


def mailer(address: str, password_file: Path | None = None) -> Mailer:
    """Returns what `AEGIS_MAIL` names.

    `smtp://USER@HOST:PORT?from=ADDRESS&roots=FILE`, user and roots being optional, or
    `file:///FOLDER`. Raises ValueError for anything else; its message repeats nothing of it.
    """
    parts = urlsplit(address)
    options = parse_qs(parts.query)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return Folder(Path(unquote(parts.path)))
    if parts.password is not None:
        raise ValueError("AEGIS_MAIL holds a password: it belongs in AEGIS_MAIL_PASSWORD_FILE")
    if parts.scheme != "smtp" or not parts.hostname or not options.get("from"):
        raise ValueError("AEGIS_MAIL is neither smtp://USER@HOST:PORT?from=ADDRESS nor file:///DIR")
    user = unquote(parts.username or "")
    if user and password_file is None:
        raise ValueError("AEGIS_MAIL names a user: set AEGIS_MAIL_PASSWORD_FILE")
    return Smtp(
        host=parts.hostname,
        port=parts.port or 587,
        sender=options["from"][0],
        user=user,
        password=password_file.read_text().strip() if user and password_file else "",
        roots=Path(options["roots"][0]) if options.get("roots") else None,
    )


# Returns the mail, or None when there is nobody to send it to after all.
Letter: TypeAlias = Callable[[], Awaitable[Mail | None]]


class Outbox:
    """The queue. Run `run()` as a task; without a mailer everything is dropped, with a warning."""

    def __init__(
        self, mailer: Mailer | None, *, pauses_seconds: Sequence[float] = _PAUSES_SECONDS
    ) -> None:
        self._mailer = mailer
        self._pauses_seconds = pauses_seconds
        self._waiting: asyncio.Queue[Letter] = asyncio.Queue(_WAITING_MAX)

    def put(self, letter: Letter) -> None:
        """Takes a letter without waiting; drops it when too many wait already."""
        try:
            self._waiting.put_nowait(letter)
        except asyncio.QueueFull:
            log.warning("a mail was dropped: %d are waiting", _WAITING_MAX)

    async def run(self) -> None:
        """Writes and sends until cancelled."""
        while True:
            letter = await self._waiting.get()
            try:
                mail = await letter()
                if mail is not None:
                    await self._send(mail)
            except (AegisError, MailNotSent) as error:
                log.warning("a mail was not sent: %s", error)
            finally:
                self._waiting.task_done()

    async def empty(self) -> None:
        """Waits until everything in the queue was dealt with."""
        await self._waiting.join()

    async def _send(self, mail: Mail) -> None:
        if self._mailer is None:
            raise MailNotSent("AEGIS_MAIL is not set")
        for pause in self._pauses_seconds:
            try:
                return await self._mailer.send(mail)
            except MailRefused:
                raise
            except MailNotSent as error:
                log.info("a mail has to wait for %g s: %s", pause, error)
                await asyncio.sleep(pause)
        return await self._mailer.send(mail)


def can_be_sent_to(address: str) -> bool:
    """Says whether a header leaves an address what it is: an encoded word (RFC 2047) is decoded
    where headers are read, so the mail would go to another address, or to none.
    """
    return "=?" not in address


def _message(mail: Mail, sender: str) -> EmailMessage:
    if not can_be_sent_to(mail.to):
        raise ValueError("the address holds an encoded word")
    message = EmailMessage()
    message["From"] = sender
    message["To"] = mail.to
    message["Subject"] = mail.subject
    message["Date"] = formatdate(localtime=False)
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2].strip("> "))
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    return message
