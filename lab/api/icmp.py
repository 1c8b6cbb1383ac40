"""One ICMP echo, as ``ping -c 1`` sends it: only the host's own network answers, whatever its ports do."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

_ECHO, _ECHO_REPLY = 8, 0
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number


async def echo(address: str) -> None:
    """Return when the host has answered; waits for ever, and OSError when it can't be reached (or this may not ask)."""
    loop = asyncio.get_running_loop()
    # Raw sockets need root, as the lab does.
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.setblocking(False)
        raw.connect((address, 0))  # the kernel passes on what comes from there alone
        payload = os.urandom(16)  # which tells this question's answer from another's
        await loop.sock_sendall(raw, request(payload))
        while not is_reply(await loop.sock_recv(raw, 2048), payload):
            pass


def request(payload: bytes) -> bytes:
    """An echo request's ICMP message."""
    checksum = _checksum(_HEADER.pack(_ECHO, 0, 0, 0, 1) + payload)
    return _HEADER.pack(_ECHO, 0, checksum, 0, 1) + payload


def is_reply(packet: bytes, payload: bytes) -> bool:
    """Does this IPv4 packet answer the request with that payload? (Not so the request itself, which loopback shows.)"""
    message = packet[4 * (packet[0] & 0x0F) :]
    return message[:1] == bytes([_ECHO_REPLY]) and message[_HEADER.size :] == payload


def _checksum(message: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(word for (word,) in struct.iter_unpack("!H", message))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
