"""The site over TLS: who is there, and who can read.

What is inside, TLS does not care: here it is the HTTP/1.1 of the lab before, and `Tls` (servers/tls_transport.py) is
put between it and TCP. The certificates are made by certs/, and what is agreed to is set in certs/contexts.py.

Run:   make tls-server
Try:   curl --cacert certs/root.pem https://localhost:7004/
       openssl s_client -connect localhost:7004 -CAfile certs/root.pem -servername www.lab     another certificate
       openssl s_client -connect localhost:7004 -tls1_1 -cipher ALL@SECLEVEL=0      refused, and the alert says why
       curl --cacert certs/root.pem --cert certs/client.pem --key certs/client.key https://localhost:7004/
       sslscan localhost:7004
Left out on purpose: early data and OCSP stapling (Python's ssl has neither), tickets that several servers share, and to
refuse a session that was made under another name (RFC 6066 §3): one key opens all tickets here.
"""

from __future__ import annotations

import logging
import resource
import ssl
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

import certs
from certs.contexts import server_context
from servers import command, http1, site
from servers.http1_talk import Respond
from servers.tls_transport import Factory, Tls

__all__ = ["Factory", "Tls", "lab_context", "main", "serve"]

PORT = 7004

log = logging.getLogger("servers.tls")  # Silent, unless main() gives it a voice.


def lab_context(*names: str, **settings: Any) -> ssl.SSLContext:
    """Two names, each with its certificate, and HTTP/1.1 inside; arguments are those of server_context()."""
    return server_context(*names, **{"by_name": {"www.lab": "www"}, "alpn": ["http/1.1"]} | settings)


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    context: ssl.SSLContext | None = None,
    respond: Respond = site.respond,
    **limits: Any,
) -> AbstractAsyncContextManager[http1.Server]:
    """Serve the site over HTTPS within the block; `address` is where. *limits* are those of servers/http1.py."""
    return http1.serve(host, port, respond=respond, ssl=context or lab_context(), **limits)


def main() -> int:
    """Serve the site on loopback."""
    parser = command.parser("tls", PORT, "Serves the site over HTTPS.")
    listed = "a certificate of certs/ (.venv/bin/python -m certs list tells all)"
    parser.add_argument("--certificate", metavar="NAME", type=certs.known, help=listed)
    parser.add_argument("--clients", choices=["none", "optional", "required"], default="none", help="certificates")
    parser.add_argument("--tls12", action="store_true", help="speak TLS 1.2 only")
    options = parser.parse_args()
    settings: dict[str, Any] = {"clients": options.clients}
    if options.tls12:
        settings["maximum"] = ssl.TLSVersion.TLSv1_2
    names = [options.certificate] if options.certificate else []
    try:
        context = lab_context(*names, **settings)
    except OSError as error:
        print(f"Cannot begin: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Each connection is an open file.
    return command.main("tls", lambda: serve(options.host, options.port, context=context), options)


if __name__ == "__main__":
    sys.exit(main())
