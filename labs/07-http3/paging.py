"""A page as a browser loads it: the document, then all its tiles at once; and when each of them came."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any

from labkit.waterfall import Panel, Row, row

TILES = 36


@dataclass
class Page:
    """A page that was loaded, and how: all times in ms from the beginning."""

    took: float
    tiles: list[tuple[float, list[float]]]  # when each was asked for, and when pieces of it came

    def panel(self, title: str) -> Panel:
        """No stalls: how long a tile takes has other causes, too. Whose turn it is, first of all."""
        rows: list[Row] = [row(f"tile {i}", asked, came, math.inf) for i, (asked, came) in enumerate(self.tiles)]
        return Panel(f"{title}: {self.took:.0f} ms", tuple(rows))


async def load_page(client: Any, origin: str, tiles: int = TILES) -> Page:
    """Load it with this client of any version, from its first packet on; then close the client."""
    start = time.perf_counter()

    def now() -> float:
        return 1000 * (time.perf_counter() - start)

    async def tile(i: int) -> tuple[float, list[float]]:
        asked, came = now(), []
        async with client.stream("GET", f"{origin}/tile/{i}?n={tiles}") as answer:
            async for _ in answer.body:
                came.append(now())
        return asked, came

    async with client:
        await client.request("GET", f"{origin}/tiles?n={tiles}")
        found = await asyncio.gather(*map(tile, range(tiles)))
        return Page(max(came[-1] for _, came in found), found)
