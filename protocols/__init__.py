"""Protocol cores written by hand: bytes in, events out, no sockets, no clock."""
