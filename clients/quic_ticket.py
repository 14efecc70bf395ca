"""What a client keeps of a connection for the next one. It can be saved; who has it can resume in our name."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import NamedTuple

from aioquic.tls import CipherSuite, SessionTicket


class Ticket(NamedTuple):
    """For the same server, and the same protocol above (RFC 9001 §4.6.3). Used twice, it tells whoever listens that
    both connections are ours (RFC 8446 §C.4)."""

    alpn: str
    session: SessionTicket
    token: bytes = b""
    """That saves the Retry, while our address is the same (RFC 9000 §8.1.3)."""
    address: str = ""
    """The server's."""

    @property
    def allows_early(self) -> bool:
        """Does the server take data with the first flight?"""
        return bool(self.session.max_early_data_size)

    def save(self, path: Path) -> None:
        """Nobody else may read it."""
        session = self.session
        fields = {
            "alpn": self.alpn,
            "token": self.token.hex(),
            "address": self.address,
            "server_name": session.server_name,
            "ticket": session.ticket.hex(),
            "secret": session.resumption_secret.hex(),
            "cipher": int(session.cipher_suite),
            "age_add": session.age_add,
            "from": session.not_valid_before.isoformat(),
            "until": session.not_valid_after.isoformat(),
            "early": session.max_early_data_size,
            "extensions": [[number, data.hex()] for number, data in session.other_extensions],
        }
        new = path.with_name(path.name + ".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(fields, file, indent=1)
        new.replace(path)

    @classmethod
    def load(cls, path: Path) -> Ticket:
        """OSError: there is no such file; ValueError: it is none of ours."""
        try:
            fields = json.loads(path.read_bytes())
            session = SessionTicket(
                age_add=int(fields["age_add"]),
                cipher_suite=CipherSuite(fields["cipher"]),
                not_valid_before=datetime.datetime.fromisoformat(fields["from"]),
                not_valid_after=datetime.datetime.fromisoformat(fields["until"]),
                resumption_secret=bytes.fromhex(fields["secret"]),
                server_name=str(fields["server_name"]),
                ticket=bytes.fromhex(fields["ticket"]),
                max_early_data_size=fields["early"],
                other_extensions=[(int(number), bytes.fromhex(data)) for number, data in fields["extensions"]],
            )
            return cls(str(fields["alpn"]), session, bytes.fromhex(fields["token"]), str(fields["address"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no ticket: {error}") from None
