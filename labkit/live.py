"""Live capture of a lab's port on plain loopback: our own packet socket, else tcpdump, else dumpcap."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from labkit.packets import decode
from labkit.pcapng import Writer
from labkit.sandbox import CannotRun

_ETH_P_ALL = 0x0003
_PACKET_OUTGOING = 4  # Loopback shows each packet twice: as it leaves and as it arrives.
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>
_BUFFER = 4 << 20


def ways() -> list[str]:
    """The ways of capturing on loopback that this user has, best first."""
    found = []
    if _may_open_packet_socket():
        found.append("packet socket")
    found += [tool for tool in ("dumpcap", "tcpdump") if shutil.which(tool) and _tool_may_capture(tool)]
    return found


def _may_open_packet_socket() -> bool:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
    except (AttributeError, OSError):  # AttributeError: not Linux.
        return False
    return True


def _tool_may_capture(tool: str) -> bool:
    """True when the tool may open the interface, which it must to tell its link types (-L)."""
    try:
        done = subprocess.run([tool, "-i", _LOOPBACK, "-L"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def capture(port: int, path: Path, say: Callable[[str], None], seconds: float | None = None) -> int:
    """Record port *port* on loopback into *path* until Ctrl-C, SIGTERM or the time is up; return the count.

    CannotRun, with what to do about it, where no way is open.
    """
    available = ways()
    if not available:
        user = os.environ.get("USER", "you")
        raise CannotRun(
            "This user may not capture on loopback. Three ways out: "
            "run the experiments, whose wire records by itself and needs no rights; "
            f"or let dumpcap capture for {user}: sudo dpkg-reconfigure wireshark-common, then "
            f"sudo usermod -aG wireshark {user} and log in again; "
            "or start Wireshark or tcpdump with sudo yourself."
        )
    if available[0] == "packet socket":
        return _own(port, path, say, seconds)
    return _foreign(available[0], port, path, say, seconds)


def _own(port: int, path: Path, say: Callable[[str], None], seconds: float | None) -> int:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CannotRun(f"{path} cannot be written: {error.strerror}.") from None
    count = 0
    end = time.monotonic() + seconds if seconds is not None else None
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            sock.bind((_LOOPBACK, _ETH_P_ALL))
            recorder = Writer(fd, [_LOOPBACK], "loopback")
            say(f"Recording port {port} on loopback into {path}. Ctrl-C stops.")
            stopped = 0  # ns since 1970; 0: not yet
            while True:
                ready = select.select([sock], [], [], 0.2)[0]
                if not stopped and (stop.is_set() or (end is not None and time.monotonic() > end)):
                    stopped = time.time_ns()
                if not ready:
                    if stopped:
                        return count
                    continue
                data, (control, *_), _, address = sock.recvmsg(65535, 64)
                seconds_part, nanoseconds = struct.unpack("qq", control[2])
                stamp = seconds_part * 1_000_000_000 + nanoseconds
                if stopped and stamp > stopped:  # All that had arrived is recorded, and loopback may never be silent.
                    return count
                packet = decode(data) if address[2] != _PACKET_OUTGOING else None
                if packet is not None and port in (packet.source_port, packet.destination_port):
                    recorder.add(0, stamp, data)
                    recorder.flush()
                    count += 1
        except OSError as error:
            path.unlink(missing_ok=True)
            raise CannotRun(
                f"{path} cannot be written: {error.strerror}. Make room or choose another folder."
            ) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(fd)


def _foreign(tool: str, port: int, path: Path, say: Callable[[str], None], seconds: float | None) -> int:
    command = {
        "tcpdump": ["tcpdump", "-i", _LOOPBACK, "-U", "-w", str(path), f"port {port}"],
        "dumpcap": ["dumpcap", "-i", _LOOPBACK, "-f", f"port {port}", "-w", str(path)],
    }[tool]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ended like Ctrl-C: the tool must end, too.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if "listening on" in line or line.startswith("File:"):
                say(f"Recording port {port} on loopback into {path} with {tool}. Ctrl-C stops.")
                break
        process.wait(seconds)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        process.send_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    said += process.communicate(timeout=10)[1]
    if process.returncode not in (0, -signal.SIGINT):
        raise CannotRun(f"{tool} could not capture: {(said.strip().splitlines() or ['it gave no reason'])[-1]}")
    counted = re.search(r"(\d+) packets? captured|Packets captured: (\d+)", said)
    return int(counted[1] or counted[2]) if counted else 0
