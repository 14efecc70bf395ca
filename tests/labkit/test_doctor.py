"""make doctor: it knows every foreign tool that the lab's own tests are held against."""

from __future__ import annotations

import re
from pathlib import Path

from labkit import doctor

TESTS = Path(__file__).parents[1]


def test_each_foreign_tool_of_quic_is_listed():
    text = "".join(path.read_text(encoding="utf-8") for path in TESTS.glob("test_*.py"))
    needed = {"gtlsclient", "gtlsserver", "caddy"} & set(re.findall(r'need_tool\("(\w+)"\)', text))
    assert needed
    assert needed <= {one.name for one in doctor.findings()}
