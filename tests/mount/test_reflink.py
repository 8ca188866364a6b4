"""A state directory on a file system that shares blocks between files: copy_file_range on the mount takes no space there."""
import os
import shutil
import subprocess
import unittest

from harness import World, converge, main, skip
from programs import ROOT

MIB = 1 << 20
SIZE = 64 * MIB


class Reflink(unittest.TestCase):
    def setUp(self):
        if not ROOT:
            skip("needs root")
        if not shutil.which("mkfs.xfs"):
            skip("mkfs.xfs is not installed")
        self.world = World()
        self.addCleanup(self.world.close)
        self.disk, image = self.world.dir / "disk", self.world.dir / "disk.img"
        with open(image, "wb") as file:
            file.truncate(1 << 30)
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
        self.disk.mkdir()
        run = subprocess.run(["mount", "-t", "xfs", "-o", "loop", image, self.disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, check=False)
        if run.returncode:
            skip(f"cannot mount xfs: {run.stdout.strip()}")
        self.world.tmpfs.append(self.disk)
        regions = self.world.directories("east", "west")
        self.a = self.world.server("a", regions, home="east", state=self.disk / "state")
        self.b = self.world.server("b", regions, home="west")
        self.a.start()
        self.b.start()

    def used(self):
        subprocess.run(["sync", "-f", self.disk], check=True)
        found = os.statvfs(self.disk)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def copy(self, source, target):
        with open(source, "rb") as f, open(target, "xb") as t:
            left = SIZE
            while left:
                copied = os.copy_file_range(f.fileno(), t.fileno(), left)
                self.assertGreater(copied, 0)
                left -= copied

    def test_copies_share_blocks(self):
        data = os.urandom(SIZE)
        source, target = self.a.mount / "source", self.a.mount / "target"
        source.write_bytes(data)
        self.a.flush()
        before = self.used()
        self.copy(source, target)
        self.assertLess(self.used() - before, SIZE // 2)
        self.assertEqual(target.read_bytes(), data)
        with open(target, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"changed", 5 * MIB)
        self.assertEqual(source.read_bytes(), data)
        changed = data[:5 * MIB] + b"changed" + data[5 * MIB + 7:]
        self.assertEqual(target.read_bytes(), changed)
        converge(self.a, self.b)
        self.assertEqual((self.b.mount / "source").read_bytes(), data)
        self.assertEqual((self.b.mount / "target").read_bytes(), changed)

    def test_snapshots_share_blocks(self):
        """Of a file that is open for writing: what is sent is a copy that takes the disk no space."""
        data = bytearray(os.urandom(SIZE))
        path = self.a.mount / "open"
        path.write_bytes(data)
        self.a.flush()
        before = self.used()
        with open(path, "r+b", buffering=0) as file:
            for n in range(3):
                os.pwrite(file.fileno(), b"again", n * MIB)
                data[n * MIB:n * MIB + 5] = b"again"
                self.a.flush()
                self.assertLess(self.used() - before, SIZE // 2)
        converge(self.a, self.b)
        self.assertEqual((self.b.mount / "open").read_bytes(), data)


if __name__ == "__main__":
    main()
