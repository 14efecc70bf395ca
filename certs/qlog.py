"""What happened on a QUIC connection, as qvis draws it: a file of qlog (draft 02 of its schema, "0.3") for each.

aioquic writes nearly that. What is mended here: both ends may log into one folder, and in qvis losses are seen, which
it looks for by the packet's header.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aioquic.quic.logger import QLOG_VERSION, QuicLogger, QuicLoggerTrace


class Trace(QuicLoggerTrace):
    """One end of a connection, kept until it is over."""

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        if event == "packet_lost":
            data = {"header": {"packet_type": data["type"], "packet_number": data["packet_number"]}}
        super().log_event(category=category, event=event, data=data)


class FileLogger(QuicLogger):
    """Writes `<the ID that the client's first packet was sent to>_client.qlog`, or `_server.qlog`, into a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def start_trace(self, is_client: bool, odcid: bytes) -> Trace:
        trace = Trace(is_client=is_client, odcid=odcid)
        self._traces.append(trace)
        return trace

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        self._traces.remove(trace)
        found = trace.to_dict()
        name = f"{found['common_fields']['ODCID']}_{found['vantage_point']['type']}.qlog"
        found["common_fields"]["time_format"] = "absolute"
        with open(self._folder / name, "w", encoding="utf-8") as file:
            json.dump({"qlog_version": QLOG_VERSION, "qlog_format": "JSON", "traces": [found]}, file)
