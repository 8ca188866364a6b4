"""A power cut under one of two servers: its state lies on a block device, whose image is copied at the instant of the cut, so that
what was not written back is gone. What others have stays there, comes back here, and what is written next reaches them."""
import os
import shutil
import sqlite3
import subprocess
import time
import unittest

from harness import World, main, skip, wait_until
from programs import ROOT

SMALL = 400
LARGE = 3


class PowerCut(unittest.TestCase):
    def setUp(self):
        if not ROOT:
            self.skipTest("needs root")
        self.world = World()
        self.disk, self.image = self.world.dir / "disk", self.world.dir / "disk.img"
        with open(self.image, "wb") as file:
            file.truncate(1 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image], check=True)
        self.disk.mkdir()
        self.attach()
        regions = self.world.directories("east", "west")
        self.a = self.world.server("a", regions, home="east", state=self.disk / "state")
        self.b = self.world.server("b", regions, home="west")
        self.a.start()
        self.b.start()

    def tearDown(self):
        self.world.close()

    def attach(self):
        if subprocess.run(["mount", "-o", "loop", self.image, self.disk], check=False).returncode:
            skip("cannot mount a loop device")
        if self.disk not in self.world.tmpfs:
            self.world.tmpfs.append(self.disk)

    def cut(self):
        copy = self.world.dir / "cut.img"
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        self.a.kill()
        subprocess.run(["umount", self.disk], check=True)
        shutil.move(copy, self.image)
        self.attach()
        database = sqlite3.connect(self.a.state / "meridian.db")
        database.execute("UPDATE meta SET value = '00000000-0000-0000-0000-000000000001' WHERE name = 'boot'")
        database.commit()
        database.close()

    @staticmethod
    def content(n):
        return f"content of {n}".encode() if n < SMALL else os.urandom(8) + bytes(200_000)

    def found(self, server, wanted):
        """Those of the names that do not have that content there."""
        wrong = []
        for name, content in wanted.items():
            try:
                if (server.mount / name).read_bytes() != content:
                    wrong.append(name)
            except OSError as e:
                wrong.append(f"{name}: {e}")
        return wrong

    def test_what_others_have_stays_and_comes_back(self):
        wanted = {f"f{n}": self.content(n) for n in range(SMALL + LARGE)}
        (self.a.mount / "first").write_text("x")
        self.a.flush()
        for name, content in wanted.items():
            (self.a.mount / name).write_bytes(content)
        wait_until("the other server has them", lambda: set(wanted) <= set(os.listdir(self.b.mount)), 60)
        self.assertEqual(self.found(self.b, wanted), [])
        self.cut()
        self.a.start()
        wait_until(lambda: f"the content here: {self.found(self.a, wanted)[:5]}\n{self.a.status_text()}",
                   lambda: not self.found(self.a, wanted), 60, 0.5)
        for n in range(5):
            (self.a.mount / f"after{n}").write_bytes(b"after")
            time.sleep(0.3)
        (self.a.mount / "f1").write_bytes(b"changed")
        wanted.update({f"after{n}": b"after" for n in range(5)}, f1=b"changed")
        self.a.flush()
        wait_until(lambda: f"the content there: {self.found(self.b, wanted)[:5]}\n{self.b.status_text()}",
                   lambda: not self.found(self.b, wanted), 60, 0.5)
        self.assertEqual(self.found(self.a, wanted), [])
        for server in (self.a, self.b):
            self.assertEqual(server.status()["bad_segments"], 0)


if __name__ == "__main__":
    main()
