"""A TCP proxy on loopback that is no good: it cuts connections at random bytes, and stalls some.

    python3 proxy.py UPSTREAM [--seed N] [--cut MIB] [--stall MIB] [--longest SECONDS]       0 MIB: never

UPSTREAM is a file that holds the port to go to. It is read anew for each connection; while it is not there, nobody
listens as far as a client can tell: its connection is reset. So whoever restarts the server decides when it is back.

Each connection is cut when it has moved about --cut MiB, in either direction, and one in ten already within its first
8 KiB, which is in the handshake. A cut is a reset or an end of the stream, at once in both directions, in the middle of
whatever was on its way; what the proxy still held is gone. About every --stall MiB one direction stands still for up to
--longest seconds.

It prints its port, then, at the end (SIGTERM), one line of JSON with what it did.
"""

import argparse
import asyncio
import json
import random
import signal
import socket
import struct
from pathlib import Path

PIECE = 256 << 10
MIB = 1 << 20
NEVER = 1 << 62


class Proxy:
    def __init__(self, arguments):
        self.upstream, self.arguments = Path(arguments.upstream), arguments
        self.chance = random.Random(arguments.seed)
        self.done = dict.fromkeys(("connections", "refused", "cuts", "cuts_in_handshake", "stalls", "bytes"), 0)

    async def serve(self, reader, writer):
        try:
            port = int(self.upstream.read_text())
            there = await asyncio.open_connection("127.0.0.1", port)
        except (OSError, ValueError):
            self.done["refused"] += 1
            reset(writer)
            return
        self.done["connections"] += 1
        line = Line(self, (reader, writer), there)
        ways = [asyncio.ensure_future(line.move(reader, there[1])), asyncio.ensure_future(line.move(there[0], writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            line.end()


class Line:
    """One connection through the proxy, and how far it may get."""

    def __init__(self, proxy, here, there):
        self.proxy, self.writers, self.moved = proxy, (here[1], there[1]), 0
        chance, arguments = proxy.chance, proxy.arguments
        self.early = arguments.cut > 0 and chance.random() < 0.1
        self.cut_at = chance.randrange(8192) if self.early else 8192 + self.far(arguments.cut)
        self.harsh = chance.random() < 0.5
        self.next_stall()

    def next_stall(self):
        self.stall_at = self.moved + self.far(self.proxy.arguments.stall)

    def far(self, mean):
        """So many bytes away, `mean` MiB on average."""
        return int(self.proxy.chance.expovariate(1 / mean) * MIB) if mean else NEVER

    async def move(self, reader, writer):
        """One direction, until its end, the cut, or an error. Both directions count together."""
        try:
            while True:
                data = await reader.read(PIECE)
                if not data:
                    return
                left = self.cut_at - self.moved
                self.moved += len(data)
                self.proxy.done["bytes"] += len(data)
                if len(data) >= left:
                    self.proxy.done["cuts"] += 1
                    self.proxy.done["cuts_in_handshake"] += self.early
                    writer.write(data[: max(left, 0)])
                    return
                writer.write(data)
                await writer.drain()
                if self.moved >= self.stall_at:
                    self.proxy.done["stalls"] += 1
                    await asyncio.sleep(self.proxy.chance.uniform(0.05, self.proxy.arguments.longest))
                    self.next_stall()
        except OSError:
            return

    def end(self):
        for writer in self.writers:
            reset(writer) if self.harsh else writer.transport.abort()


def reset(writer):
    """The peer sees ECONNRESET, not an end of the stream."""
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main(arguments):
    proxy, stop = Proxy(arguments), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=PIECE)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()
    print(json.dumps(proxy.done), flush=True)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("upstream")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--cut", type=float, default=64)
parser.add_argument("--stall", type=float, default=256)
parser.add_argument("--longest", type=float, default=8)
asyncio.run(main(parser.parse_args()))
