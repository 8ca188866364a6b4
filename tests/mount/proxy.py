"""A TCP proxy on a free port of 127.0.0.1, for tests and benchmarks: it delays, resets, closes and stalls.

All proxies of a process share one thread. A fault counts bytes of one direction ("request": what the client sends, "response") and strikes
after exactly `after` of them have passed; what comes after them never passes. It is given

  by a schedule   schedule(n) returns the faults of the n-th connection (from 0), counted on that connection
  or armed        arm(fault) counts from now on, over all connections, and strikes once: any connection, also a kept one

An action is "reset" (both sides get a RST), "close" (both sides get a FIN) or "stall" (nothing passes on that connection any more).

As a program, `proxy.py TARGET_HOST TARGET_PORT DELAY_MS` prints its port and serves until its input ends."""
import asyncio
import collections
import contextlib
import socket
import struct
import sys
import threading

IN_FLIGHT = 64 << 20  # bytes that a delay line holds before its sender is paused
ACTIONS = ("reset", "close", "stall")


class Fault:
    def __init__(self, direction, action, after):
        assert direction in ("request", "response") and action in ACTIONS
        self.direction, self.action, self.after = direction, action, after


class Loop:
    """The thread of all proxies; started with the first one, ends with the process."""
    lock = threading.Lock()
    loop = None

    @classmethod
    def get(cls):
        with cls.lock:
            if cls.loop is None:
                cls.loop = asyncio.new_event_loop()
                threading.Thread(target=cls.loop.run_forever, daemon=True).start()
        return cls.loop

    @classmethod
    def call(cls, function, *arguments):
        """Runs function in the thread, waits, and returns what it returns. function may be a coroutine function."""
        async def run():
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), cls.get()).result(30)


class Flow(asyncio.Protocol):
    """One side of a connection, and the flow of bytes that it sends to the other side."""

    def __init__(self, link, direction):
        self.link, self.direction = link, direction
        self.transport = None
        self.to = None  # the other side's Flow
        self.passed = 0
        self.waiting = collections.deque()  # (due, bytes; None: the end) on the delay line
        self.waiting_bytes = 0
        self.timer = None
        self.full = False  # our transport takes no more for now

    def connection_made(self, transport):
        self.transport = transport
        if sock := transport.get_extra_info("socket"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link.made(self)

    def data_received(self, data):
        link = self.link
        if link.dead:
            return
        link.proxy.note(self.direction, data)
        while data and not link.dead:
            fault, room = link.next_fault(self.direction, self.passed)
            piece = data if fault is None or len(data) < room else data[:room]
            data = data[len(piece):]
            link.count(self.direction, len(piece))
            self.passed += len(piece)
            if piece:
                self.put(piece)
            if fault is not None and len(piece) == room:
                link.strike(fault)

    def eof_received(self):
        if not self.link.dead:
            self.put(None)
        return self.transport.get_extra_info("sslcontext") is None  # TLS has no half-closed connections

    def connection_lost(self, error):
        if not self.link.dead:
            if error is not None:
                self.link.reset()
            else:
                self.put(None)
        self.link.lost()

    def put(self, data):
        delay = self.link.proxy.delay
        if not delay and not self.waiting:
            self.pass_on(data)
            return
        self.waiting.append((self.link.proxy.loop.time() + delay, data))
        self.waiting_bytes += len(data) if data else 0
        if self.timer is None:
            self.timer = self.link.proxy.loop.call_at(self.waiting[0][0], self.due)
        self.pace()

    def due(self):
        self.timer = None
        now = self.link.proxy.loop.time()
        while self.waiting and self.waiting[0][0] <= now and not self.link.dead:
            data = self.waiting.popleft()[1]
            self.waiting_bytes -= len(data) if data else 0
            self.pass_on(data)
        if self.waiting and not self.link.dead:
            self.timer = self.link.proxy.loop.call_at(self.waiting[0][0], self.due)
        self.pace()

    def pass_on(self, data):
        to = self.to.transport if self.to else None
        if to is None or to.is_closing():
            return
        if data is not None:
            to.write(data)
        elif to.can_write_eof():
            to.write_eof()
            self.link.half_closed(self)
        else:
            to.close()

    def pace(self):
        """Stops reading while too much is under way, and goes on when it is not."""
        stop = self.waiting_bytes > IN_FLIGHT or (self.to is not None and self.to.full)
        if self.transport is None or self.transport.is_closing():
            return
        if stop:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def pause_writing(self):
        self.full = True
        self.to.pace()

    def resume_writing(self):
        self.full = False
        self.to.pace()


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy, number):
        self.proxy = proxy
        self.dead = self.stalled = False
        self.ended = 0
        self.faults = list(proxy.schedule(number) or ()) if proxy.schedule else []
        self.client, self.server = Flow(self, "request"), Flow(self, "response")
        self.client.to, self.server.to = self.server, self.client
        self.connecting = None

    def made(self, flow):
        if flow is not self.client:
            return
        self.proxy.links.add(self)
        flow.transport.pause_reading()
        self.connecting = self.proxy.loop.create_task(self.connect())

    async def connect(self):
        try:
            await self.proxy.loop.create_connection(lambda: self.server, *self.proxy.target)
        except OSError:
            self.reset()
            return
        if self.client.transport.is_closing() or self.dead:
            self.reset()
        else:
            self.client.transport.resume_reading()

    def next_fault(self, direction, passed):
        """The fault that strikes first in this direction, and how many bytes pass before it."""
        found, room = None, 0
        for fault, left in [(f, f.after - passed) for f in self.faults] + [(self.proxy.armed, self.proxy.armed_left)]:
            if fault is not None and fault.direction == direction and left >= 0 and (found is None or left < room):
                found, room = fault, left
        return found, room

    def count(self, direction, n):
        if self.proxy.armed is not None and self.proxy.armed.direction == direction:
            self.proxy.armed_left -= n

    def strike(self, fault):
        self.proxy.struck[fault.action] += 1
        if fault is self.proxy.armed:
            self.proxy.armed = None
            self.proxy.hit = True
        self.dead = True
        self.when_sent(fault.action)

    def when_sent(self, action):
        """What passed before the fault reaches the other side first."""
        transports = [f.transport for f in (self.client, self.server) if f.transport is not None]
        waiting = self.client.waiting or self.server.waiting
        if waiting:
            for flow in (self.client, self.server):
                while flow.waiting and flow.waiting[0][0] <= self.proxy.loop.time():
                    flow.pass_on(flow.waiting.popleft()[1])
        if waiting or any(t.get_write_buffer_size() for t in transports if not t.is_closing()):
            self.proxy.loop.call_later(0.001, self.when_sent, action)
        elif action == "reset":
            self.reset()
        elif action == "close":
            for transport in transports:
                transport.close()
        else:
            self.stalled = True
            for transport in transports:
                transport.pause_reading() if transport is self.server.transport and not transport.is_closing() else None

    def reset(self):
        self.dead = True
        for flow in (self.client, self.server):
            if flow.timer:
                flow.timer.cancel()
            if flow.transport is None:
                continue
            sock = flow.transport.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            flow.transport.abort()

    def half_closed(self, flow):
        flow.eof = True
        if getattr(self.client, "eof", False) and getattr(self.server, "eof", False):
            for each in (self.client, self.server):
                if each.transport is not None:
                    each.transport.close()

    def lost(self):
        """A side is gone: a stalled connection ends when its client gives up."""
        self.ended += 1
        if self.stalled or self.ended == 2:
            self.reset()
            self.proxy.links.discard(self)


class Proxy:
    """delay: seconds added to each direction, without a limit on the bandwidth. tls: an ssl.SSLContext to serve with; the target gets plain bytes.
    record: keep what clients send in .recorded."""

    def __init__(self, host, port, delay=0.0, schedule=None, tls=None, record=False):
        self.target = (host, int(port))
        self.delay = delay
        self.schedule = schedule
        self.recorded = bytearray() if record else None
        self.connections = 0
        self.struck = collections.Counter()  # faults by action
        self.links = set()
        self.armed, self.armed_left, self.hit = None, 0, False
        self.loop = Loop.get()
        self.server = Loop.call(self._listen, tls)
        self.port = self.server.sockets[0].getsockname()[1]
        self.endpoint = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"

    async def _listen(self, tls):
        return await self.loop.create_server(self._accept, "127.0.0.1", 0, ssl=tls, backlog=512)

    def _accept(self):
        self.connections += 1
        return Link(self, self.connections - 1).client

    def note(self, direction, data):
        if self.recorded is not None and direction == "request":
            self.recorded += data

    def arm(self, fault):
        def do():
            self.armed, self.armed_left, self.hit = fault, fault.after, False

        Loop.call(do)

    def disarm(self):
        """Whether the fault struck."""
        def do():
            self.armed = None
            return self.hit

        return Loop.call(do)

    def drop(self):
        """Resets every connection."""
        def do():
            for link in list(self.links):
                link.reset()

        Loop.call(do)

    def close(self):
        def do():
            self.server.close()
            for link in list(self.links):
                link.reset()

        Loop.call(do)


class Control(asyncio.Protocol):
    """One client of a Controlled: a proxy of its own, and commands by lines, answered by lines."""

    def __init__(self, owner):
        self.owner = owner
        self.transport = self.proxy = None
        self.line = b""

    def connection_made(self, transport):
        self.transport = transport
        self.owner.loop.create_task(self.begin())

    async def begin(self):
        self.proxy = Proxy.__new__(Proxy)
        for name, value in vars(self.owner.pattern).items():
            setattr(self.proxy, name, value)
        self.proxy.links, self.proxy.struck = set(), self.owner.struck
        self.proxy.server = await self.proxy._listen(None)
        self.transport.write(b"%d\n" % self.proxy.server.sockets[0].getsockname()[1])

    def data_received(self, data):
        self.line += data
        while b"\n" in self.line:
            line, self.line = self.line.split(b"\n", 1)
            self.transport.write(self.obey(line.decode().split()) + b"\n")

    def obey(self, word):
        p = self.proxy
        if word[0] == "arm":
            p.armed, p.armed_left, p.hit = Fault(word[1], word[2], int(word[3])), int(word[3]), False
        elif word[0] == "drop":
            for link in list(p.links):
                link.reset()
        elif word[0] == "disarm":
            p.armed = None
            return b"hit" if p.hit else b"miss"
        return b"ok"

    def connection_lost(self, error):
        if self.proxy is not None:
            self.proxy.server.close()
            for link in list(self.proxy.links):
                link.reset()


class Controlled:
    """Proxies for a program: each connection to .port is answered with the port of a proxy that is its own as long as it lasts, and then takes
    lines: "arm request|response reset|close|stall BYTES", "disarm" (answers "hit" or "miss"), "drop" (resets all connections)."""

    def __init__(self, host, port):
        self.pattern = Proxy(host, port)
        self.loop = Loop.get()
        self.struck = collections.Counter()
        self.server = Loop.call(self._listen)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _listen(self):
        return await self.loop.create_server(lambda: Control(self), "127.0.0.1", 0, backlog=512)

    def close(self):
        Loop.call(self.server.close)
        self.pattern.close()


if __name__ == "__main__":
    program = Proxy(sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000 if len(sys.argv) > 3 else 0.0)
    print(program.port, flush=True)
    sys.stdin.read()
