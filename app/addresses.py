"""Which addresses webhooks may go to, and connections to just these.

Clients choose the URLs. Without a check, they could make this service ask what only it can reach: itself, its
network, the metadata of a cloud (server-side request forgery). A name is looked up once: the address that was
checked is the one that is connected to, so that a DNS whose answers change helps nobody.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterable
from concurrent.futures import Future
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from threading import Thread
from urllib.parse import urlsplit

import httpcore

logger = logging.getLogger(__name__)

MAX_TRIED = 3  # addresses of a name
CONNECT_SECONDS = 3.0  # for each of them

_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")  # its last 32 bits are an IPv4 address
# Special networks of IANA's registries that ``is_global`` does not know, or not in every release of Python.
_SPECIAL = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))

NOT_PUBLIC = "not a public address; DIGITS_WEBHOOK_PRIVATE=true would allow it"
NOT_SECURE = "not https; DIGITS_WEBHOOK_PRIVATE=true would allow it"
NO_ADDRESS = "its name has no address that webhooks may go to"  # one text: clients need not know which names exist here


class ReceiverError(Exception):
    """A receiver has no address, or one that must not be connected to; give another URL."""


class Receivers(httpcore.AsyncNetworkBackend):
    """Connections to receivers: over https, and to public addresses alone, unless it ``allows_private`` ones."""

    def __init__(self, allows_private: bool) -> None:
        self._allows_private = allows_private
        self._network = httpcore.AnyIOBackend()

    def find_problem(self, url: str) -> str | None:
        """Why nothing may be sent to this URL, as far as that can be said without asking the DNS."""
        parts = urlsplit(url)
        assert parts.hostname
        if self._allows_private:
            return None
        if parts.scheme != "https":
            return NOT_SECURE
        with contextlib.suppress(socket.gaierror):  # a name
            if not all(map(is_public, _look_up(parts.hostname, socket.AI_NUMERICHOST))):
                return NOT_PUBLIC
        return None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the host's addresses that answers.

        Raises:
            ReceiverError: the host has no address, or one that is not public.
            httpcore.ConnectError, httpcore.ConnectTimeout: none of them answers.
        """
        addresses = await _find(host)
        if not self._allows_private and not all(map(is_public, addresses)):
            logger.info("no webhook goes to %s: it has an address that is not public", host)
            raise ReceiverError(NO_ADDRESS)
        *others, last = addresses[:MAX_TRIED]
        for address in others:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._network.connect_tcp(address, port, CONNECT_SECONDS)
        return await self._network.connect_tcp(last, port, CONNECT_SECONDS)


def is_public(address: str) -> bool:
    """Whether an address (IPv4 or IPv6, as text) is one of the internet's, not of a network, a machine or a group."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or (ip_address(found.packed[-4:]) if found in _NAT64 else None)
        if inner is None and (found not in _UNICAST or found.sixtofour or found.teredo):
            return False
        found = inner or found
    return found.is_global and not found.is_multicast and not any(found in network for network in _SPECIAL)


async def _find(host: str) -> list[str]:
    """The addresses of a host, each once.

    The thread is one that the end of the process does not wait for: the DNS may take half a minute.
    """
    answer: Future[list[str]] = Future()
    answer.set_running_or_notify_cancel()

    def ask() -> None:
        try:
            answer.set_result(_look_up(host))
        except (OSError, UnicodeError):
            logger.info("no webhook goes to %s: the DNS knows no address", host)
            answer.set_exception(ReceiverError(NO_ADDRESS))

    Thread(target=ask, daemon=True, name="look-up").start()
    return await asyncio.wrap_future(answer)


def _look_up(host: str, flags: int = 0) -> list[str]:
    """What the system takes a host for, numbers in all their spellings (``0x7f.1``) included."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
