"""One small asyncio server per protocol; run with python -m servers.<slug>."""
