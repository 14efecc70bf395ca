"""One small asyncio client per protocol; run with python -m clients.<slug>."""
