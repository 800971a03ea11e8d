"""Mails: over a real mail server, into a folder, and through the queue."""

from __future__ import annotations

import asyncio
import base64
import email
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aegis.errors import Unavailable
from aegis.local import pki
from aegis_server.identity.people.mail import (
    Folder,
    Mail,
    Mailer,
    MailNotSent,
    MailRefused,
    Outbox,
    Smtp,
    mailer,
)

MAIL = Mail("bob@example.org", "Hello", "A token:\n\n    s3cret\n")


class MailServer:
    """As much of a mail server as a client with STARTTLS and AUTH PLAIN meets."""

    def __init__(self, folder: Path) -> None:
        pki.ensure(folder)
        self.roots = folder / "ca.crt"
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self.starttls = True
        self.busy = 0
        self.heard: list[str] = []
        self.mails: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secure = False

        async def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")
            await writer.drain()

        self.busy -= 1
        await say("421 later" if self.busy >= 0 else "220 here")
        while line := (await reader.readline()).decode().strip():
            self.heard.append(line)
            verb = line.split()[0].upper()
            if verb == "EHLO":
                extension = "AUTH PLAIN" if secure else "STARTTLS"
                await say(f"250-here\r\n250 {extension}" if secure or self.starttls else "250 here")
            elif verb == "STARTTLS":
                await say("220 go")
                await writer.start_tls(self.context)
                secure = True
            elif verb == "RCPT" and "nobody@" in line:
                await say("550 no such nobody@example.org")
            elif verb == "DATA":
                await say("354 go")
                self.mails.append((await reader.readuntil(b"\r\n.\r\n"))[:-3])
                await say("250 taken")
            elif verb == "QUIT":
                await say("221 bye")
                break
            else:
                await say("235 ok" if verb == "AUTH" else "250 ok")
        writer.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[MailServer, Smtp]]:
    running = MailServer(tmp_path / "pki")
    listening = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    (tmp_path / "password").write_text("hunter2\n")
    found = mailer(
        f"smtp://aegis@127.0.0.1:{port}?from=aegis@example.org&roots={running.roots}",
        tmp_path / "password",
    )
    assert isinstance(found, Smtp)
    yield running, found
    listening.close()
    await listening.wait_closed()


async def test_mail_goes_over_starttls_with_a_login(server: tuple[MailServer, Smtp]):
    """Nothing but EHLO is said in the clear; the mail has what a mail needs."""
    running, smtp = server
    await smtp.send(MAIL)
    verbs = [line.split()[0].upper() for line in running.heard]
    assert verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]
    secret = running.heard[3].split()[2]
    assert base64.b64decode(secret) == b"\0aegis\0hunter2"
    message = email.message_from_bytes(running.mails[0])
    assert (message["To"], message["From"]) == ("bob@example.org", "aegis@example.org")
    assert "s3cret" in str(message.get_payload())
    assert "hunter2" not in repr(smtp)
    assert "s3cret" not in repr(MAIL)


async def test_server_without_starttls_or_with_a_foreign_certificate_gets_nothing(
    server: tuple[MailServer, Smtp],
):
    """No password and no mail go where nobody can be sure who listens."""
    running, smtp = server
    stranger = Smtp(smtp.host, smtp.port, smtp.sender, smtp.user, smtp.password)
    with pytest.raises(MailNotSent, match="SSLCertVerificationError"):
        await stranger.send(MAIL)
    running.starttls = False
    with pytest.raises(MailNotSent, match="SMTPNotSupportedError"):
        await smtp.send(MAIL)
    assert not [line for line in running.heard if line.startswith(("AUTH", "MAIL"))]


async def test_refused_address_is_told_apart_and_not_repeated(server: tuple[MailServer, Smtp]):
    """Trying again would not help, and the log does not get the address."""
    _, smtp = server
    with pytest.raises(MailRefused) as refusal:
        await smtp.send(Mail("nobody@example.org", "Hello", "x"))
    assert "nobody" not in str(refusal.value)
    with pytest.raises(MailRefused, match="ValueError"):
        await smtp.send(Mail("bob@example.org\nBcc: eve@example.org", "Hello", "x"))


@pytest.mark.parametrize(
    "to", ["=?utf-8?q?eve=40evil.example=2C?=@example.org", "=?x?q??=@example.org"]
)
async def test_address_that_a_header_reads_as_another_gets_nothing(
    server: tuple[MailServer, Smtp], tmp_path: Path, to: str
):
    """An encoded word in an address (RFC 2047) sends its token elsewhere, or is no text at all."""
    running, smtp = server
    for sender in (smtp, Folder(tmp_path / "box")):
        with pytest.raises(MailRefused, match="ValueError"):
            await sender.send(Mail(to, "Hello", "x"))
    assert running.mails == []


async def test_queue_tries_again_and_drops_what_is_refused(server: tuple[MailServer, Smtp]):
    """A mail server that is busy gets the mail later; a refused one holds up no other."""
    running, smtp = server
    running.busy = 1
    outbox = Outbox(smtp, pauses_seconds=(0.01, 0.01))
    sending = asyncio.create_task(outbox.run())

    async def letter(to: str) -> Mail | None:
        if to == "database":
            raise Unavailable("DATABASE_UNAVAILABLE", "away")
        return Mail(to, "Hello", "x") if to else None

    for to in ("bob@example.org", "", "database", "nobody@example.org", "ada@example.org"):
        outbox.put(lambda to=to: letter(to))
    await outbox.empty()
    sent = [email.message_from_bytes(mail)["To"] for mail in running.mails]
    assert sent == ["bob@example.org", "ada@example.org"]
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_queue_gives_up_on_a_server_that_is_away():
    """After the last pause, with a line in the log; it goes on with the next."""
    outbox = Outbox(Smtp("127.0.0.1", 1, "a@example.org"), pauses_seconds=(0.01,))
    sending = asyncio.create_task(outbox.run())

    async def letter() -> Mail:
        return MAIL

    outbox.put(letter)
    await outbox.empty()
    assert not sending.done()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_full_queue_and_missing_mailer_cost_nobody_an_answer():
    """Who asked is not made to wait; the mail is lost, and the log says so."""
    outbox = Outbox(None)

    async def letter() -> Mail:
        return MAIL

    for _ in range(1001):
        outbox.put(letter)
    sending = asyncio.create_task(outbox.run())
    await outbox.empty()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_folder_gets_a_private_file_a_mail(tmp_path: Path):
    """In the order in which they were sent."""
    folder = mailer((tmp_path / "mail box").as_uri())
    assert folder == Folder(tmp_path / "mail box")
    for subject in ("one", "two"):
        await folder.send(Mail("bob@example.org", subject, "x"))
    files = sorted((tmp_path / "mail box").iterdir())
    assert [email.message_from_bytes(f.read_bytes())["Subject"] for f in files] == ["one", "two"]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    (tmp_path / "file").touch()
    broken: Mailer = Folder(tmp_path / "file" / "x")
    with pytest.raises(MailRefused):
        await broken.send(MAIL)


@pytest.mark.parametrize(
    "address",
    [
        "smtp://user:hunter2@host:25?from=a@b",
        "smtp://host:25",
        "smtp://user@host:25?from=a@b",
        "smtp://?from=a@b",
        "http://host?from=a@b",
        "file://host/dir",
        "file:relative",
        "",
    ],
)
def test_setting_that_makes_no_sense_is_refused(address: str):
    """By the name of the setting, without repeating what may be a password."""
    with pytest.raises(ValueError, match="AEGIS_MAIL") as refusal:
        mailer(address)
    assert "hunter2" not in str(refusal.value)
