"""Tells what this machine can do for the lab, and how to get the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labkit import console, evidence, live
from labkit.run import CAPTURES, why_no_wire
from labkit.sandbox import CannotRun


@dataclass(frozen=True)
class Finding:
    """One thing the lab uses: is it there, what is it for, how to get it."""

    name: str
    good: bool
    detail: str
    remedy: str = ""


_TO_CAPTURE = "sudo dpkg-reconfigure wireshark-common; sudo usermod -aG wireshark $USER; log in again."


def findings() -> list[Finding]:
    why = why_no_wire()
    wire = why or "hosts, links with delay and loss, captures without root"
    ways = ", ".join(live.ways())
    wireshark = shutil.which("wireshark")
    folder = CAPTURES if CAPTURES.exists() else CAPTURES.parent
    found = [
        Finding("Python", sys.version_info >= (3, 11), platform.python_version(), "Install Python 3.11 or newer."),
        Finding("the wire", not why, wire, _wire_remedy()),
        _tshark(),
        Finding("live capture", bool(ways), ways or "not for this user; runs record anyway", _TO_CAPTURE),
        Finding("Wireshark", bool(wireshark), wireshark or "not installed", "sudo apt install wireshark"),
        Finding("captures/", os.access(folder, os.W_OK), str(folder), f"Make {folder} writable."),
    ]
    for tool, package, purpose in _TOOLS:
        found.append(Finding(tool, bool(shutil.which(tool)), purpose, f"sudo apt install {package}"))
    return found


_TOOLS = (
    ("nc", "netcat-openbsd", "talk TCP by hand"),
    ("socat", "socat", "talk TCP and UDP by hand"),
    ("curl", "curl", "a foreign client"),
    ("openssl", "openssl", "a foreign client and server for TLS"),
    ("nghttp", "nghttp2-client", "a foreign client for HTTP/2; with it comes h2load"),
    ("nghttpd", "nghttp2-server", "a foreign server for HTTP/2"),
    ("gtlsclient", "ngtcp2-client", "a foreign client for QUIC"),
    ("gtlsserver", "ngtcp2-server", "a foreign server for QUIC"),
    ("caddy", "caddy", "a foreign server for HTTP/3"),
)


def _tshark() -> Finding:
    try:
        found = ".".join(map(str, evidence.version(evidence.tshark())))
    except CannotRun as error:
        return Finding("tshark", False, "no quiz, no frames in verdicts", str(error))
    return Finding("tshark", True, f"{found}: quiz, frames in verdicts")


# Where a Linux system forbids user namespaces: the switch, the value that forbids, the cure.
_SWITCHES = (
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=10000"),
)


def _wire_remedy() -> str:
    if not sys.platform.startswith("linux"):
        return "Use a Linux machine or a virtual machine; experiments that need no link run here too."
    for name, forbids, cure in _SWITCHES:
        switch = Path("/proc/sys", name)
        if switch.exists() and switch.read_text().strip() == forbids:
            return f"{cure}   (until the next boot)"
    return (
        "In a container: allow user namespaces, for Docker with "
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined."
    )


def report() -> int:
    """Print the findings. 0 when the experiments can run in full, 2 when the wire or Python is missing."""
    found = findings()
    console.heading("What this machine can do")
    for one in found:
        console.say(f"  {console.mark(one.good)} {one.name:14} {one.detail}")
        if not one.good and one.remedy:
            console.paragraph(one.remedy, " " * 19)
    vital = all(one.good for one in found if one.name in ("Python", "the wire", "captures/"))
    console.say("\nEverything that `make <lab>` needs is here." if vital else
                "\nWithout what is marked above, experiments that need a link are skipped by name.")  # fmt: skip
    return 0 if vital else 2


def as_json() -> list[dict[str, Any]]:
    return [asdict(one) for one in findings()]
