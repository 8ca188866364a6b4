"""O_TMPFILE: a file without a name lives while it is open, and gets a name by linkat, with its content, here and elsewhere."""
import ctypes
import errno
import os
import unittest

from harness import *

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400


class Tmpfile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        regions = cls.world.directories("one")
        cls.a = cls.world.server("a", regions)
        cls.b = cls.world.server("b", regions)
        cls.a.start()
        cls.b.start()

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def open(self, flags=os.O_RDWR):
        return os.open(self.a.mount, os.O_TMPFILE | flags, 0o640)

    def link(self, fd, name):
        # os.link does not follow /proc/self/fd/N.
        to = os.fsencode(self.a.mount / name)
        if libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, to, AT_SYMLINK_FOLLOW):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def test_linked(self):
        fd = self.open()
        self.assertEqual(os.fstat(fd).st_nlink, 0)
        os.write(fd, b"x" * 100000)
        self.assertEqual(os.listdir(self.a.mount), [])
        self.link(fd, "named")
        self.assertEqual(os.fstat(fd).st_nlink, 1)
        os.write(fd, b"end")
        os.close(fd)
        self.assertEqual((self.a.mount / "named").read_bytes(), b"x" * 100000 + b"end")
        self.assertEqual((self.a.mount / "named").stat().st_mode & 0o7777, 0o640)
        wait_until("it is on the other server", lambda: (self.b.mount / "named").exists()
                   and (self.b.mount / "named").read_bytes() == b"x" * 100000 + b"end", 60)
        (self.a.mount / "named").unlink()

    def test_dropped(self):
        # What other tests removed may still be going.
        before = self.a.status()["cache"]["inodes"]
        fd = self.open()
        os.write(fd, b"gone")
        os.close(fd)
        self.assertEqual(os.listdir(self.a.mount), [])
        wait_until("its inode is gone", lambda: self.a.status()["cache"]["inodes"] <= before, 60)

    def test_exclusive(self):
        fd = self.open(os.O_RDWR | os.O_EXCL)
        with self.assertRaises(OSError) as e:
            self.link(fd, "never")
        self.assertEqual(e.exception.errno, errno.ENOENT)
        os.close(fd)

    def test_unlinked_stays_unlinked(self):
        path = self.a.mount / "f"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        path.unlink()
        with self.assertRaises(OSError) as e:
            self.link(fd, "again")
        self.assertEqual(e.exception.errno, errno.ENOENT)
        os.close(fd)


if __name__ == "__main__":
    main()
