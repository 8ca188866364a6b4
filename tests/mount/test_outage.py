"""A dead region under load, and servers that are cut off from every region."""
import os
import threading
import time
import unittest

from harness import World, Ceph, converge, main, wait_until


class Outage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.ceph = Ceph(cls.world)
        cls.regions = {f"region-{n}": cls.ceph.region(n) for n in (1, 2, 3)}
        cls.a = cls.world.server("a", cls.regions, home="region-1")
        cls.b = cls.world.server("b", cls.regions, home="region-2")
        cls.a.start()
        cls.b.start()

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def test_1_dead_region_delays_nobody(self):
        (self.a.mount / "load").mkdir()
        converge(self.a, self.b)
        stop, errors, slowest, count = threading.Event(), [], [0.0], [0]

        def load():
            while not stop.is_set():
                started = time.monotonic()
                try:
                    path = self.a.mount / "load" / f"f{count[0]}"
                    path.write_bytes(b"x" * 1000)
                    os.stat(path)
                    if count[0] % 5 == 4:
                        os.rename(path, self.a.mount / "load" / f"g{count[0]}")
                    if count[0] % 7 == 6:
                        os.unlink(self.a.mount / "load" / f"f{count[0] - 1}") if (count[0] - 1) % 5 != 4 else None
                except OSError as error:
                    errors.append(error)
                slowest[0] = max(slowest[0], time.monotonic() - started)
                count[0] += 1
                time.sleep(0.02)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            time.sleep(2)
            self.ceph.kill(3)
            killed = time.monotonic()
            wait_until("the status names the dead region", lambda: not self.a.region("region-3")["up"], 60, 0.5)
            backlog = wait_until("its backlog shows", lambda: self.a.region("region-3")["backlog_rows"], 60, 0.5)
            self.assertGreater(backlog, 0)
            region = self.a.region("region-3")
            self.assertTrue(region["error"])
            self.assertIn("region-3", self.a.status_text())
            while time.monotonic() < killed + 30:
                marker = f"marker-{time.monotonic_ns()}"
                (self.a.mount / "load" / marker).write_text("seen")
                wait_until("the other regions keep their pace", (self.b.mount / "load" / marker).exists, 30, 0.05)
                self.assertFalse(self.a.region("region-3")["up"])
                time.sleep(1)
        finally:
            stop.set()
            thread.join()
        self.assertEqual(errors, [])
        self.assertGreater(count[0], 100)
        self.assertLess(slowest[0], 10, "a call on the mount waited for the dead region")
        self.ceph.restart(3)
        wait_until("the backlog drains by itself", lambda: self.a.backlog() == 0, 120, 0.5)
        self.assertTrue(self.a.region("region-3")["up"])
        converge(self.a, self.b)

    def test_2_cut_off_from_all_then_the_same_winner(self):
        a, b = self.a.mount, self.b.mount
        for n in range(20):
            (a / f"shared{n}").write_text("base")
        (a / "both-attr").write_text("base")
        converge(self.a, self.b)
        for n in (1, 2, 3):
            self.ceph.kill(n)
        for n in range(20):
            first, second = (a, b) if n % 2 else (b, a)
            (first / f"shared{n}").write_text("first")
            time.sleep(0.01)
            (second / f"shared{n}").write_text("the second writer wins")
            (a / f"only-a{n}").write_text(f"a{n}")
            (b / f"only-b{n}").write_text(f"b{n}")
        (a / "both-attr").write_text("written by a")
        os.chmod(b / "both-attr", 0o600)
        (a / "sub").mkdir()
        (a / "sub" / "x").write_text("x")
        (b / "sub").mkdir()
        (b / "sub" / "y").write_text("y")
        self.assertEqual((a / "shared3").read_text() in ("first", "the second writer wins"), True)
        time.sleep(1)
        for n in (1, 2, 3):
            self.ceph.restart(n)
        converge(self.a, self.b, timeout=180)
        for mount in (a, b):
            for n in range(20):
                self.assertEqual((mount / f"shared{n}").read_text(), "the second writer wins", f"{mount} {n}")
                self.assertEqual((mount / f"only-a{n}").read_text(), f"a{n}")
                self.assertEqual((mount / f"only-b{n}").read_text(), f"b{n}")
            self.assertEqual((mount / "both-attr").read_text(), "written by a")
            self.assertEqual(os.stat(mount / "both-attr").st_mode & 0o777, 0o600)
            self.assertEqual(sorted(os.listdir(mount / "sub")), ["x", "y"])
        conflicts = self.a.status()["conflicts"] + self.b.status()["conflicts"]
        self.assertGreaterEqual(conflicts, 20, "the losers are kept and counted")


if __name__ == "__main__":
    main()
