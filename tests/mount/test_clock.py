"""Clocks that are an hour wrong, and that jump while the daemon runs: nobody waits for an hour, nothing is lost, and who
wrote last wins."""
import os
import threading
import time
import unittest

from harness import World, Ceph, converge, main, wait_until

HOUR = 3600


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
        """b's clock can be set."""
        os.environ["CLOCK_SHIFT"] = str(cls.shift)
        os.environ["LD_PRELOAD"] = os.environ["CLOCK_SHIFT_LIBRARY"]
        try:
            cls.b.start()
        finally:
            del os.environ["CLOCK_SHIFT"], os.environ["LD_PRELOAD"]

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    @classmethod
    def set_clock(cls, seconds):
        new = cls.shift.with_suffix(".new")
        new.write_text(str(seconds))
        os.rename(new, cls.shift)

    def pass_on(self, writer, reader, name, data, timeout=15):
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
            status = wait_until("the status says so", lambda: self.b.status()["clock_off_ms"] and self.b.status(), 10)
            self.assertAlmostEqual(status["clock_off_ms"] / 1000, seconds, delta=30)
            self.assertIn("this machine's clock is", self.b.status_text())
            self.set_clock(back)
            self.to_and_fro(name)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(errors, [])
        converge(self.a, self.b, timeout=30)
        for path, size in kept.items():
            self.assertEqual((self.a.mount / path).stat().st_size, size, path)
        for server in (self.a, self.b):
            self.assertEqual(server.status()["held"], 0, server.name)
            self.assertEqual(server.status()["clock_off_ms"], 0, server.name)
            for region in server.status()["regions"]:
                self.assertEqual((region["backlog_rows"], region["backlog_parked"]), (0, 0))

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
        converge(self.a, self.b, timeout=45)
        self.assertEqual((self.a.mount / "cut off too").read_text(), "y" * 200000)
        self.set_clock(0)

    def test_4_started_wrong(self):
        for seconds in (HOUR, -HOUR):
            self.assertEqual(self.b.stop(), 0)
            self.set_clock(seconds)
            self.start_shifted()
            self.to_and_fro(f"started{seconds}")
            converge(self.a, self.b, timeout=30)
            self.assertEqual(self.a.status()["held"], 0)
        self.set_clock(0)


if __name__ == "__main__":
    main()
