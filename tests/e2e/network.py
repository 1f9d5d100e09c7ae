"""Hosts of a network that this machine makes up: namespaces, with links that can be taken down."""

from __future__ import annotations

import os
import shutil
import subprocess


class NoNetwork(Exception):
    """Namespaces cannot be made here."""


class Host:
    """A worker's host, with a link to the front's.

    Attributes:
        before: What a command begins with to run there.
        front: The address at which the front's host is reached.
    """

    def __init__(self, network: Network, number: int) -> None:
        self._network = network
        self._name = f"{network.name}-{number}"
        self._link = f"v{number}"
        self.before = ("ip", "netns", "exec", self._name)
        self.front = f"10.77.{number}.1"
        ip("netns", "add", self._name)
        peer = ("peer", "name", "v", "netns", self._name)
        ip("link", "add", self._link, "netns", network.name, "type", "veth", *peer)
        ip("-n", network.name, "addr", "add", f"{self.front}/24", "dev", self._link)
        ip("-n", self._name, "addr", "add", f"10.77.{number}.2/24", "dev", "v")
        ip("-n", self._name, "link", "set", "v", "up")
        self.take_up()

    def take_down(self) -> None:
        """Nothing passes from now on, and nobody is told."""
        ip("-n", self._network.name, "link", "set", self._link, "down")

    def take_up(self) -> None:
        """It passes again."""
        ip("-n", self._network.name, "link", "set", self._link, "up")

    def remove(self) -> None:
        ip("netns", "del", self._name)


class Network:
    """A front's host, and as many others as are asked for.

    Raises:
        NoNetwork: Namespaces cannot be made here.
    """

    def __init__(self) -> None:
        self.name = f"headrace-test-{os.getpid()}"
        self.before = ("ip", "netns", "exec", self.name)
        self._hosts: list[Host] = []
        if shutil.which("ip") is None:
            raise NoNetwork("there is no `ip` here")
        ip("netns", "add", self.name)

    def host(self) -> Host:
        """A further host, linked to the front's."""
        self._hosts.append(host := Host(self, len(self._hosts) + 1))
        return host

    def remove(self) -> None:
        for host in self._hosts:
            host.remove()
        ip("netns", "del", self.name)


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetwork(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
