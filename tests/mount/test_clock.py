"""Clocks that are an hour wrong, and that jump while the daemon runs: nobody waits for an hour, nothing is lost, and who
wrote last wins."""
import os
import threading
import time
import unittest

from harness import World, Ceph, converge, main, wait_until

HOUR = 3600


def set_shift(file, seconds):
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    os.rename(new, file)


def start_shifted(server, file, **more):
    """Its clock can be set with set_shift."""
    saved = dict(os.environ)
    os.environ.update(CLOCK_SHIFT=str(file), LD_PRELOAD=os.environ["CLOCK_SHIFT_LIBRARY"], **more)
    try:
        server.start()
    finally:
        os.environ.clear()
        os.environ.update(saved)


class Clock(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.ceph = Ceph(cls.world, gateways=2)
        regions = {f"region-{n}": cls.ceph.region(n) for n in (1, 2)}
        cls.shift = cls.world.dir / "shift"
        cls.set_clock(0)
        cls.a = cls.world.server("a", regions, home="region-1")
        cls.b = cls.world.server("b", regions, home="region-2")
        cls.a.start()
        cls.start_shifted()

    @classmethod
    def start_shifted(cls):
        start_shifted(cls.b, cls.shift)

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    @classmethod
    def set_clock(cls, seconds):
        set_shift(cls.shift, seconds)

    def pass_on(self, writer, reader, name, data, timeout=60):
        """Returns when the reader shows what was written."""
        (writer.mount / name).write_text(data)
        path = reader.mount / name
        wait_until(lambda: f"{name} on {reader.name}\n{writer.tail()}\n{reader.tail()}",
                   lambda: path.exists() and path.read_text() == data, timeout, 0.05)

    def to_and_fro(self, name):
        """Each one has seen what it writes over: the last one stays."""
        for n in range(3):
            self.pass_on(self.a, self.b, name, f"{name} a {n}")
            self.pass_on(self.b, self.a, name, f"{name} b {n}")

    def nothing_waits(self, server):
        def left():
            status = server.status()
            found = {name: status[name] for name in ("held", "clock_off_ms", "journal_rows")}
            for region in status["regions"]:
                found.update({f"{region['name']} {name}": region[name] for name in ("backlog_rows", "backlog_parked")})
            return {name: value for name, value in found.items() if value}

        wait_until(lambda: f"{server.name}: {left()}", lambda: not left(), 60, 0.3)

    def jump(self, seconds, back=0):
        """Both write while b's clock jumps, and jumps back."""
        name = f"jump{seconds}"
        stop, kept, errors = threading.Event(), {}, []

        def load(server):
            n = 0
            while not stop.is_set():
                try:
                    path = server.mount / f"{name}-{server.name}-{n}"
                    path.write_text(path.name * (1 if n % 5 else 30000))
                    kept[path.name] = path.stat().st_size
                except OSError as error:
                    errors.append(error)
                n += 1
                time.sleep(0.02)

        threads = [threading.Thread(target=load, args=(server,)) for server in (self.a, self.b)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(1)
            self.set_clock(seconds)
            self.to_and_fro(name)
            off_ms = wait_until("the status says so", lambda: self.b.status()["clock_off_ms"], 60)
            self.assertAlmostEqual(off_ms / 1000, seconds, delta=30)
            self.assertIn("this machine's clock is", self.b.status_text())
            self.set_clock(back)
            self.to_and_fro(name)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(errors, [])
        converge(self.a, self.b)
        for path, size in kept.items():
            self.assertEqual((self.a.mount / path).stat().st_size, size, path)
        for server in (self.a, self.b):
            self.nothing_waits(server)

    def test_1_an_hour_ahead_and_back(self):
        self.jump(HOUR)

    def test_2_an_hour_behind_and_back(self):
        self.jump(-HOUR)

    def test_3_jump_while_a_region_is_down(self):
        """Pauses between attempts are not longer for a clock that was set back, and what was written far from every region
        is not held."""
        self.set_clock(HOUR)
        self.to_and_fro("before")
        self.ceph.kill(1)
        self.ceph.kill(2)
        (self.b.mount / "cut off").write_text("x" * 200000)
        wait_until("b notices", lambda: not self.b.region("region-1")["up"], 30)
        self.set_clock(-HOUR)
        (self.b.mount / "cut off too").write_text("y" * 200000)
        self.ceph.restart(1)
        self.ceph.restart(2)
        converge(self.a, self.b)
        self.assertEqual((self.a.mount / "cut off too").read_text(), "y" * 200000)
        self.set_clock(0)

    def test_4_started_wrong(self):
        for seconds in (HOUR, -HOUR):
            self.assertEqual(self.b.stop(), 0)
            self.set_clock(seconds)
            self.start_shifted()
            self.to_and_fro(f"started{seconds}")
            converge(self.a, self.b)
            wait_until("nothing is held", lambda: self.a.status()["held"] == 0, 60)
        self.set_clock(0)


class Hours(unittest.TestCase):
    def test_bandwidth_of_the_hour(self):
        """A file that would take four minutes by day is under way when the night begins."""
        world = World()
        self.addCleanup(world.close)
        shift = world.dir / "shift"
        set_shift(shift, int(21.5 * HOUR) - int(time.time()) % (24 * HOUR))
        regions = {"office": {**world.directories("office")["office"], "rate_limit": "128K, 22:00-06:00 256M"}}
        server = world.server("a", regions)
        start_shifted(server, shift, TZ="UTC")
        (server.mount / "large").write_bytes(world.random.randbytes(32 << 20))
        began = time.monotonic()
        wait_until("it is to be sent", lambda: server.region("office")["backlog_bytes"] >= 32 << 20, 30)
        status = server.status()
        region = status["regions"][0]
        self.assertEqual(region["rate_limit"], 128 << 10)
        self.assertAlmostEqual(region["rate_limit_until_ms"] - status["now_ms"], HOUR / 2 * 1000, delta=600_000)
        self.assertRegex(server.status_text(), r"office: at most 128\.0 KiB a second each way until \w+ 22:00")
        time.sleep(2)
        self.assertGreater(server.backlog(), 0)
        set_shift(shift, int(shift.read_text()) + HOUR)
        wait_until("the night has its pace", lambda: server.backlog() == 0, 120)
        self.assertLess(time.monotonic() - began, 200)
        self.assertEqual(server.region("office")["rate_limit"], 256 << 20)
        self.assertEqual(server.stop(), 0, server.tail())


if __name__ == "__main__":
    main()
