"""The capture format: what we write, Wireshark reads; what is cut off or foreign does no harm."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.pcapng import BadCapture, CannotWrite, Writer, count_sections, keep_sections, read, read_key_log, trim
from tests.conftest import need_tool
from tests.labkit.test_link import tcp, udp

NOW = 1_700_000_000_123_456_789


def write(path: Path, *, append: bool = False, packets: int = 3) -> Path:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | (0 if append else os.O_TRUNC))
    key_log = path.with_suffix(".keys")
    key_log.write_bytes(b"CLIENT_RANDOM 00 11\nhalf a li")
    writer = Writer(fd, ("client", "server"), "a test", key_log)
    for i in range(packets):
        writer.add(i % 2, NOW + i, udp(bytes(i)), "" if i % 2 else f"wire: delayed {i} ms")
    writer.flush()
    os.close(fd)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    records = list(read(write(tmp_path / "x.pcapng", packets=5)))
    assert [record.data for record in records] == [udp(bytes(i)) for i in range(5)]
    assert [record.comment for record in records[:2]] == ["wire: delayed 0 ms", ""]
    assert [(record.number, record.section, record.interface) for record in records[:2]] == [
        (1, 1, "client"),
        (2, 1, "server"),
    ]
    assert records[0].time == pytest.approx(NOW / 1e9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.binary(max_size=300), st.text(max_size=40)), max_size=20))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, packets: list[tuple[int, bytes, str]]) -> None:
    path = tmp_path_factory.mktemp("round") / "x.pcapng"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    writer = Writer(fd, ("a", "b"))
    for interface, data, comment in packets:
        writer.add(interface, NOW, data, comment)
    writer.flush()
    os.close(fd)
    assert [("ab".index(r.interface), r.data, r.comment) for r in read(path)] == packets


def test_more_than_the_buffer(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    writer = Writer(fd, ("a",))
    for i in range(300):
        writer.add(0, NOW, udp(bytes(1400)), "wire: a comment" if i % 2 else "")
    writer.flush()
    os.close(fd)
    assert len(list(read(tmp_path / "x"))) == 300


def test_the_key_log_of_a_section_is_read_back(tmp_path: Path) -> None:
    path = write(write(tmp_path / "x"), append=True)
    assert read_key_log(path, 2) == "CLIENT_RANDOM 00 11\n"
    assert read_key_log(path, 3) == ""


def test_sections_are_taken_back(tmp_path: Path) -> None:
    path = write(tmp_path / "x")
    before = path.read_bytes()
    write(path, append=True)
    keep_sections(path, 1)
    assert path.read_bytes() == before
    keep_sections(path, 5)
    assert path.read_bytes() == before


def test_every_packet_waits_for_its_secrets_once_at_least(tmp_path: Path) -> None:
    """A packet can arrive just before the older ones are written, and its secrets just after."""
    path = tmp_path / "x"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    writer = Writer(fd, ("a",))
    writer.add(0, NOW, udp(b"first"))
    writer.flush_older()
    assert list(read(path)) == []
    writer.add(0, NOW, udp(b"second"))
    writer.flush_older()
    assert [record.data[-5:] for record in read(path)] == [b"first"]
    assert writer.waiting
    writer.flush_older()
    assert [record.data[-5:] for record in read(path)] == [b"first", b"econd"]
    assert not writer.waiting
    os.close(fd)


def test_secrets_are_ahead_of_the_packets_that_waited(tmp_path: Path) -> None:
    key_log, path = tmp_path / "keys", tmp_path / "x"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    writer = Writer(fd, ("a",), key_log=key_log)
    writer.add(0, NOW, udp(b"first"))
    assert writer.waiting
    for line in (b"CLIENT_RANDOM 00 ", b"11\n", b"CLIENT_RANDOM 22 33\nCLIENT_"):
        with open(key_log, "ab") as file:
            file.write(line)
        writer.flush()
        writer.add(0, NOW, udp(b"next"))
    os.close(fd)
    written = path.read_bytes()
    first, second = written.index(b"CLIENT_RANDOM 00 11\n"), written.index(b"CLIENT_RANDOM 22 33\n")
    assert written.index(b"first") < first < written.index(b"next") < written.rindex(b"next")
    assert first < second < written.rindex(b"next")  # Each ahead of the packet that waited when it was logged.
    assert written.count(b"CLIENT_") == 2  # The half line is still to come.


def test_a_section_for_each_experiment(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    write(path)
    write(path, append=True)
    assert count_sections(path) == 2
    assert [record.section for record in read(path)] == [1, 1, 1, 2, 2, 2]
    assert [record.number for record in read(path)] == [1, 2, 3, 4, 5, 6]  # as Wireshark counts


def test_cut_off_at_any_byte_the_whole_packets_are_read(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole").read_bytes()
    ends = [i + len(udp(bytes(n))) for n in range(3) for i in [whole.index(udp(bytes(n)))]]
    path = tmp_path / "cut"
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        found = [record.data for record in read(path)]
        assert found == [udp(bytes(n)) for n in range(len(found))]
        assert len(found) <= sum(end <= size for end in ends)
        count_sections(path)
        fd = os.open(path, os.O_RDWR)
        trim(fd)
        os.close(fd)
        write(path, append=True)
        assert len(list(read(path))) == len(found) + 3
        assert path.read_bytes().startswith(whole[: len(path.read_bytes()) - len(whole)])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_told_or_overlooked_but_never_a_crash(tmp_path_factory, data) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    damaged = bytearray(write(path).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    for reader in (lambda: list(read(path)), lambda: count_sections(path)):
        with contextlib.suppress(BadCapture):
            reader()


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_garbage_is_no_capture(tmp_path_factory, garbage: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(garbage)
    if len(garbage) < 8:
        assert list(read(path)) == []
    else:
        with pytest.raises(BadCapture):
            list(read(path))


def test_captures_of_other_programs_are_told_apart(tmp_path: Path) -> None:
    need_tool("editcap", "mergecap")
    ours = write(tmp_path / "ours.pcapng")
    for name, options in {"old": ["-F", "pcap"], "ether": ["-T", "ether"], "nokia": ["-F", "nstrace20"]}.items():
        made = subprocess.run(["editcap", *options, ours, tmp_path / name], capture_output=True)
        if made.returncode == 0:
            with pytest.raises(BadCapture, match=str(tmp_path / name)):
                list(read(tmp_path / name))
    subprocess.run(["mergecap", "-w", tmp_path / "merged", ours, ours], check=True)
    assert len(list(read(tmp_path / "merged"))) == 6  # written by Wireshark, from ours


def test_a_full_disk_takes_the_section_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.pcapng")
    before = path.read_bytes()
    fd = os.open(path, os.O_RDWR)
    writer = Writer(fd, ("a",))
    writer.add(0, NOW, tcp(bytes(1000)))
    room, real = [100], os.write

    def nearly_full(fd: int, data: bytes) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        return real(fd, data[: room.pop()])

    monkeypatch.setattr(os, "write", nearly_full)
    with pytest.raises(CannotWrite, match="No space left on device"):
        writer.flush()
    os.close(fd)
    assert path.read_bytes() == before


def test_wireshark_takes_every_field(tmp_path: Path) -> None:
    need_tool("tshark", "capinfos")
    path = write(tmp_path / "x.pcapng")
    write(path, append=True)
    fields = ["frame.time_epoch", "frame.comment", "frame.interface_name", "ip.src", "udp.dstport"]
    asked = [part for field in fields for part in ("-e", field)]
    shown = subprocess.run(["tshark", "-r", path, "-Tfields", *asked], check=True, capture_output=True, text=True)
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert lines[0] == ["1700000000.123456789", "wire: delayed 0 ms", "client", "10.0.0.1", "7002"]
    assert lines[1][1:3] == ["", "server"]
    assert len(lines) == 6
    told = subprocess.run(["capinfos", path], check=True, capture_output=True, text=True).stdout
    assert "nanoseconds" in told
    assert "Number of packets:   6" in told
    assert "Number of decryption secrets in file: 2" in told
