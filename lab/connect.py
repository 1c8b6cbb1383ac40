"""ssh's ProxyCommand in a lab: look the name up at the lab's DNS (the machine's resolver doesn't know it), then relay.

    connect.py DNS_ADDRESS HOST PORT

A script on the standard library alone, because every ssh pays for its imports.
"""

import contextlib
import os
import secrets
import selectors
import socket
import struct
import sys


def lookup(server: str, name: str) -> str:
    """The first A record of ``name``; an address is its own answer. SystemExit when there is none."""
    with contextlib.suppress(OSError):
        return socket.inet_ntoa(socket.inet_aton(name)) if name.count(".") == 3 else _ask(server, name)
    raise SystemExit(f"{name}: the lab's DNS ({server}) has no address for it")


def _ask(server: str, name: str) -> str:
    ident = secrets.randbelow(1 << 16)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(3)
        udp.connect((server, 53))
        udp.send(struct.pack(">6H", ident, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1))
        reply = udp.recv(4096)
    place = 12 + len(labels) + 1 + 4
    for _ in range(struct.unpack_from(">H", reply, 6)[0]):
        place = _skip_name(reply, place)
        kind, _, _, length = struct.unpack_from(">2HIH", reply, place)
        place += 10
        if kind == 1:
            return socket.inet_ntoa(reply[place : place + 4])
        place += length
    raise OSError("no address")


def _skip_name(reply: bytes, place: int) -> int:
    while reply[place]:
        if reply[place] >= 0xC0:  # a pointer ends the name
            return place + 2
        place += reply[place] + 1
    return place + 1


def relay(connection: socket.socket) -> None:
    """Copy stdin to the connection and back until the other side closes."""
    stdin = sys.stdin.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is connection:
                    data = connection.recv(1 << 16)
                    if not data:
                        return
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
                else:
                    data = os.read(stdin, 1 << 16)
                    if data:
                        connection.sendall(data)
                    else:
                        selector.unregister(stdin)
                        connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    try:
        relay(socket.create_connection((lookup(sys.argv[1], sys.argv[2]), int(sys.argv[3])), timeout=None))
    except OSError as error:
        raise SystemExit(f"{sys.argv[2]}: {error}") from error
