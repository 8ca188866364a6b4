"""Hard links, special files and exchanges, on one server and as the other one sees them."""
import ctypes
import errno
import os
import pathlib
import shutil
import stat
import subprocess
import unittest

from harness import World, converge, main

AT_FDCWD, RENAME_EXCHANGE = -100, 2
libc = ctypes.CDLL(None, use_errno=True)


def exchange(a, b):
    if libc.renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def structure(root):
    """Of everything below root: kind, mode, content, and the names that are the same inode."""
    found, names = {}, {}
    for directory, _, files in os.walk(root):
        for name in files:
            path = os.path.join(directory, name)
            key, st = os.path.relpath(path, root), os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(st.st_mode) else pathlib.Path(path).read_bytes()
            found[key] = [st.st_mode, st.st_size, st.st_mtime_ns, st.st_nlink, hash(content)]
            names.setdefault(st.st_ino, []).append(key)
    for group in names.values():
        for key in group:
            found[key].append(sorted(group))
    return found


class Links(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        regions = cls.regions = cls.world.directories("east", "west")
        cls.one = cls.world.server("one", regions, home="east")
        cls.one.start()
        cls.two = cls.world.server("two", regions, home="west")
        cls.two.start()

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def assert_linked(self, directory, *names):
        found = [os.stat(directory / name) for name in names]
        self.assertEqual({s.st_ino for s in found}, {found[0].st_ino})
        self.assertEqual({s.st_nlink for s in found}, {len(names)})

    def test_links(self):
        root = self.one.mount / "links"
        root.mkdir()
        (root / "a").write_text("first")
        os.link(root / "a", root / "b")
        self.assertEqual(os.stat(root / "a").st_ino, os.stat(root / "b").st_ino)
        self.assertEqual(os.stat(root / "a").st_nlink, 2)
        converge(self.one, self.two)
        with open(root / "b", "a") as file:
            file.write(" second")
        os.chmod(root / "b", 0o600)
        self.assertEqual((root / "a").read_text(), "first second")
        converge(self.one, self.two)
        self.assertEqual((self.two.mount / "links/a").read_text(), "first second")
        self.assert_linked(self.two.mount / "links", "a", "b")
        # A write through one name elsewhere is one of both, here, too.
        (self.two.mount / "links/a").write_text("from two")
        converge(self.two, self.one)
        self.assertEqual((root / "b").read_text(), "from two")
        self.assert_linked(root, "a", "b")
        # A third name, seconds later; a re-mount; the peer sees all three.
        os.link(root / "b", root / "c")
        self.one.stop()
        self.one.start()
        converge(self.one, self.two)
        for server in self.one, self.two:
            self.assert_linked(server.mount / "links", "a", "b", "c")
        os.chmod(self.two.mount / "links/c", 0o751)
        os.rename(self.two.mount / "links/a", self.two.mount / "links/z")
        converge(self.two, self.one)
        for server in self.one, self.two:
            self.assert_linked(server.mount / "links", "z", "b", "c")
            self.assertEqual(os.stat(server.mount / "links/b").st_mode & 0o7777, 0o751)
        # A name that is written anew, and one that another file is moved over, are files of their own.
        os.unlink(root / "z")
        (root / "z").write_text("from two")
        (root / "t").write_text("from two")
        os.rename(root / "t", root / "c")
        converge(self.one, self.two)
        for server in self.one, self.two:
            self.assertEqual([os.stat(server.mount / "links" / n).st_nlink for n in "zbc"], [1, 1, 1])
        os.link(root / "b", root / "d")
        os.unlink(root / "b")
        converge(self.one, self.two)
        for server in self.one, self.two:
            self.assertEqual((server.mount / "links/d").read_text(), "from two")
            self.assertEqual(os.stat(server.mount / "links/d").st_nlink, 1)
        subprocess.run(["cp", "-al", root, self.one.mount / "copied"], check=True)
        self.assertEqual(os.stat(self.one.mount / "copied/c").st_nlink, 2)
        converge(self.one, self.two)

    def test_programs(self):
        """Trees full of links: the peer, and a server that starts from nothing, have the same ones."""
        for program in "git", "rsync":
            if not shutil.which(program):
                self.skipTest(f"{program} is not installed")
        source, mount = self.world.dir / "source", self.one.mount / "programs"
        (source / "d").mkdir(parents=True)
        for i in range(20):
            (source / f"f{i}").write_text(f"content {i % 7}" * (20000 if i == 3 else 1))
            os.link(source / f"f{i}", source / f"d/g{i}")
            if i % 3 == 0:
                os.link(source / f"f{i}", source / f"h{i}")
        os.symlink("d/g1", source / "s")
        os.link(source / "s", source / "d/s", follow_symlinks=False)
        mount.mkdir()
        subprocess.run(["rsync", "-aH", f"{source}/", mount / "copy"], check=True)
        quiet = dict(check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                     env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a",
                          "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"})
        subprocess.run(["git", "init", mount / "repo"], **quiet)
        subprocess.run(["cp", source / "f1", source / "f2", mount / "repo"], check=True)
        subprocess.run(["git", "-C", mount / "repo", "add", "."], **quiet)
        subprocess.run(["git", "-C", mount / "repo", "commit", "-m", "x"], **quiet)
        subprocess.run(["git", "clone", "--local", mount / "repo", mount / "clone"], **quiet)
        want = structure(mount)
        self.assertEqual({k: v[:1] + v[3:] for k, v in structure(mount / "copy").items()},
                         {k: v[:1] + v[3:] for k, v in structure(source).items()})
        self.assertTrue(any(v[3] > 1 for k, v in want.items() if k.startswith("clone/.git/objects")))
        converge(self.one, self.two)
        self.assertEqual(structure(self.two.mount / "programs"), want)
        subprocess.run(["git", "-C", self.two.mount / "programs/clone", "fsck"], **quiet)
        three = self.world.server("three", self.regions, home="west")
        three.start()
        converge(self.one, self.two, three)
        self.assertEqual(structure(three.mount / "programs"), want)
        three.stop()
        three.start()
        self.assertEqual(structure(three.mount / "programs"), want)
        # Written on the third, where nothing but what was read is local.
        (three.mount / "programs/copy/d/g5").write_text("new")
        os.unlink(three.mount / "programs/copy/h6")
        converge(three, self.one, self.two)
        want = structure(three.mount / "programs")
        for server in self.one, self.two:
            self.assertEqual(structure(server.mount / "programs"), want)
        self.assertEqual((mount / "copy/f5").read_text(), "new")
        three.stop()

    def test_two_writers(self):
        """Both write through different names before they hear of each other: one wins for both names."""
        here, there = self.one.mount / "two", self.two.mount / "two"
        here.mkdir()
        for i in range(10):
            (here / f"a{i}").write_text("base")
            os.link(here / f"a{i}", here / f"b{i}")
        converge(self.one, self.two)
        for i in range(10):
            (here / f"a{i}").write_text(f"one {i}")
            (there / f"b{i}").write_text(f"two {i}")
        converge(self.one, self.two)
        self.assertEqual(structure(here), structure(there))
        for i in range(10):
            self.assert_linked(here, f"a{i}", f"b{i}")
            self.assertIn((here / f"a{i}").read_text(), (f"one {i}", f"two {i}"))

    def test_special(self):
        root = self.one.mount / "special"
        root.mkdir()
        os.mkfifo(root / "p", 0o640)
        self.assertTrue(stat.S_ISFIFO(os.stat(root / "p").st_mode))
        if os.getuid() == 0:
            os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            self.assertEqual(os.stat(root / "null").st_rdev, os.makedev(1, 3))
        (root / "f").write_text("f")
        self.one.flush()
        self.assertTrue((root / "p").exists())
        for name in os.listdir(root):
            os.unlink(root / name)  # the peers have no special files

    def test_exchange(self):
        root = self.one.mount / "exchange"
        (root / "d").mkdir(parents=True)
        (root / "d/x").write_text("x")
        (root / "a").write_text("A" * 100000)
        (root / "b").write_text("B")
        converge(self.one, self.two)
        exchange(root / "a", root / "b")
        self.assertEqual(((root / "a").read_text(), (root / "b").read_text()[:1]), ("B", "A"))
        converge(self.one, self.two)
        exchange(root / "a", root / "d")
        self.assertEqual((root / "d").read_text(), "B")
        converge(self.one, self.two)
        self.assertEqual((self.two.mount / "exchange/a/x").read_text(), "x")
        with self.assertRaises(OSError) as raised:
            exchange(root / "a", root / "a/x")
        self.assertEqual(raised.exception.errno, errno.EINVAL)


if __name__ == "__main__":
    main()
