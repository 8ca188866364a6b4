"""Names, listings, file handles, attributes of the file system, and what listings ask of the daemon."""
import ctypes
import errno
import os
import shutil
import subprocess

from harness import main, wait_until
from beside import Beside, as_user, call, libc, outcome


class FileHandle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * 128)]


def handle_of(path):
    handle, mount = FileHandle(bytes=128), ctypes.c_int()
    call("name_to_handle_at", -100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0)
    return handle


def open_handle(mount, handle, flags=os.O_RDONLY):
    """A descriptor."""
    directory = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return call("open_by_handle_at", directory, ctypes.byref(handle), flags)
    finally:
        os.close(directory)


class Directory:
    """opendir(3) with telldir and seekdir."""

    def __init__(self, path):
        libc.opendir.restype = ctypes.c_void_p
        libc.readdir64.restype = ctypes.c_void_p
        libc.readdir64.argtypes = libc.closedir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
        libc.telldir.restype = ctypes.c_long
        libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
        self.stream = libc.opendir(os.fsencode(path))
        assert self.stream

    def next(self):
        entry = libc.readdir64(self.stream)
        return os.fsdecode(ctypes.string_at(entry + 19)) if entry else None

    def rest(self):
        found = []
        while (name := self.next()) is not None:
            found.append(name)
        return found

    def tell(self):
        return libc.telldir(self.stream)

    def seek(self, position):
        libc.seekdir(self.stream, position)

    def close(self):
        libc.closedir(self.stream)


class Names(Beside):
    def test_any_bytes_reach_the_other_server(self):
        root, there = (os.fsencode(s.mount / "names") for s in (self.a, self.b))
        os.mkdir(root)
        every = bytes(b for b in range(1, 256) if b != ord("/"))
        names = [every, b"x" * 255, "ä".encode() * 127, b"\xff" * 85, b"%41", b"%", b"100%", b"a%2Fb", b"...", b" ", b"-", b"~",
                 b"a\\b", b"new\nline", b"\x7f", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"CON", b"a.", b"*?",
                 *(bytes([b]) for b in range(1, 256) if b not in b"/.")]
        names = list(dict.fromkeys(names))
        for n, name in enumerate(names):
            if n % 3 == 0:
                os.mkdir(os.path.join(root, name))
            else:
                with open(os.path.join(root, name), "wb") as f:
                    f.write(name)
        self.assertEqual(sorted(os.listdir(root)), sorted(names))
        self.assertEqual(outcome(os.mkdir, os.path.join(root, b"y" * 256)), "ENAMETOOLONG")
        self.assertEqual(outcome(os.stat, os.path.join(root, b"y" * 256)), "ENAMETOOLONG")
        self.a.flush()
        wait_until(lambda: f"every name: {set(names) ^ set(os.listdir(there))}",
                   lambda: os.path.isdir(there) and sorted(os.listdir(there)) == sorted(names), 60)
        for n, name in enumerate(names):
            if n % 3:
                with open(os.path.join(there, name), "rb") as f:
                    self.assertEqual(f.read(), name)

    def test_positions_in_a_listing_that_changes(self):
        root = self.a.mount / "positions"
        root.mkdir()
        kept = {f"k{n:04}" for n in range(0, 3000, 2)}
        for name in kept:
            (root / name).touch()
        listing = Directory(root)
        seen, positions = [], []
        for n in range(3000):
            position = listing.tell()
            name = listing.next()
            if name is None:
                break
            seen.append(name)
            positions.append((position, name))
            if n % 7 == 0:  # others come and go, before and behind
                (root / f"k{n:04}x").touch()
                (root / f"a{n}").touch()
            if n % 14 == 0 and n > 20:
                (root / f"a{n - 14}").unlink(missing_ok=True)
        self.assertEqual(len(seen), len(set(seen)), "no name twice")
        self.assertLessEqual(kept, set(seen), "none missed")
        for index in (0, 1, 2, 500, 1, 1400, 77):
            position, name = positions[index]
            listing.seek(position)
            if os.path.lexists(root / name):
                while (found := listing.next()) != name:
                    self.assertNotIn(found, kept, "only what came since")
                    self.assertNotIn(found, (None, ".", ".."))
            after = {n for _, n in positions[index + 1:]} & kept
            rest = listing.rest()
            self.assertLessEqual(after, set(rest))
            self.assertEqual(len(rest), len(set(rest)))
        listing.seek(positions[0][0])
        self.assertLessEqual(kept | {".", ".."}, set(listing.rest()))
        listing.close()

    def test_large_directory_in_bounded_memory(self):
        count = int(os.environ.get("ENTRIES", "50000"))
        root = self.a.mount / "large"
        root.mkdir()
        for n in range(count):
            os.mknod(root / f"entry-with-a-name-{n:07}", 0o644)
        before = self.a.resident_kib()
        seen = sum(1 for _ in os.scandir(root))
        self.assertEqual(seen, count)
        listing = Directory(root)
        self.assertEqual(len(listing.rest()), count + 2)
        listing.close()
        grown = self.a.resident_kib() - before
        print(f"{count} entries listed twice: {grown} KiB more resident")
        self.assertLess(grown, 24 * 1024)
        self.assertEqual(os.stat(root / f"entry-with-a-name-{count - 1:07}").st_size, 0)

    def test_handles_outlive_the_mount(self):
        """What an NFS server does, by the calls that it is made of; nfsd itself may not be in the kernel."""
        server = self.world.server("handles", self.world.directories("handles"))
        server.start()
        (server.mount / "d/e").mkdir(parents=True)
        path = server.mount / "d/e/f"
        path.write_text("text")
        gone, emptied = server.mount / "gone", server.mount / "emptied"
        gone.write_text("x")
        emptied.mkdir()
        handles = {p: handle_of(p) for p in (path, path.parent, gone, emptied, server.mount)}

        def text(handle):
            with os.fdopen(open_handle(server.mount, handle), encoding="utf-8") as f:
                return f.read()

        self.assertEqual(text(handles[path]), "text")
        os.rename(path, server.mount / "renamed")
        os.rename(server.mount / "d", server.mount / "d2")
        self.assertEqual(text(handles[path]), "text")
        server.kill()
        server.start()
        self.assertEqual(text(handles[path]), "text")
        fd = open_handle(server.mount, handles[path.parent], os.O_RDONLY | os.O_DIRECTORY)
        self.assertEqual(os.readlink(f"/proc/self/fd/{fd}"), str(server.mount / "d2/e"), "found by '..'")
        self.assertEqual(os.listdir(fd), [])
        os.close(fd)
        fd = open_handle(server.mount, handles[server.mount], os.O_RDONLY | os.O_DIRECTORY)
        self.assertEqual(sorted(os.listdir(fd)), ["d2", "emptied", "gone", "renamed"])
        os.close(fd)
        self.assertEqual(bytes(handle_of(server.mount / "renamed").handle), bytes(handles[path].handle))
        fd = open_handle(server.mount, handles[path], os.O_WRONLY)
        os.write(fd, b"more")
        os.close(fd)
        self.assertEqual((server.mount / "renamed").read_text(), "more")
        gone.unlink()
        emptied.rmdir()
        for _ in range(2):
            for p in (gone, emptied):
                self.assertEqual(outcome(open_handle, server.mount, handles[p]), "ESTALE")
            # Numbers are not used again: what is made now is not found by an old handle.
            gone.write_text("another")
            self.assertEqual(outcome(open_handle, server.mount, handles[gone]), "ESTALE")
            gone.unlink()
            server.kill()
            server.start()
        self.assertEqual(server.stop(), 0)

    def test_statfs_and_access(self):
        ours, below = os.statvfs(self.a.mount), os.statvfs(self.a.state)
        self.assertEqual(ours.f_namemax, 255)
        self.assertEqual(ours.f_blocks * ours.f_frsize, below.f_blocks * below.f_frsize)
        self.assertEqual(ours.f_files, below.f_files)
        self.assertLess(abs(ours.f_ffree - below.f_ffree), 10_000)
        room, less = ours.f_bavail * ours.f_frsize, below.f_bavail * below.f_frsize
        self.assertLess(room, less)  # by the reserve, within which nothing can be written
        self.assertGreater(room, less - 512 * 1024 * 1024)
        path = self.a.mount / "access"
        path.touch()
        path.chmod(0o640)
        os.chown(path, 1000, 1001)
        found = [as_user(*who, os.access, path, how) for who in ((1000, 1000, []), (1002, 1001, []), (1002, 1002, []))
                 for how in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)]
        self.assertEqual(found, [True, True, True, False, True, True, False, False, True, False, False, False])

    def test_attributes_of_every_namespace(self):
        path, link = self.a.mount / "attributes", self.a.mount / "attributes-link"
        path.touch()
        path.chmod(0o666)
        link.symlink_to("attributes")
        values = {"user.a": b"\0\xff", "trusted.b": b"", "security.c": b"x" * 5000}
        for name, value in values.items():
            os.setxattr(path, name, value)
        self.assertEqual(sorted(os.listxattr(path)), sorted(values))
        self.assertEqual(as_user(1000, 1000, [], os.listxattr, path), ["user.a", "security.c"][::-1])
        self.assertEqual(as_user(1000, 1000, [], os.setxattr, path, "trusted.b", b"y"), "EPERM")
        self.assertEqual(as_user(1000, 1000, [], os.setxattr, path, "security.c", b"y"), "EPERM")
        self.assertEqual(as_user(1000, 1000, [], os.setxattr, path, "user.d", b"y"), None)
        self.assertEqual(outcome(os.setxattr, link, "user.a", b"x", 0), None)
        self.assertEqual(outcome(lambda: os.setxattr(link, "user.a", b"x", follow_symlinks=False)), "EPERM")
        self.assertIsNone(outcome(lambda: os.setxattr(link, "trusted.l", b"x", follow_symlinks=False)))
        self.assertEqual(outcome(os.setxattr, path, "nonsense.x", b"y"), "ENOTSUP")
        self.a.flush()
        there = self.b.mount / "attributes"
        wait_until("the attributes there", lambda: os.path.lexists(there) and len(os.listxattr(there)) == 4, 60)
        self.assertEqual({n: os.getxattr(there, n) for n in values if n != "user.a"}, {"trusted.b": b"", "security.c": b"x" * 5000})
        self.assertEqual(os.getxattr(self.b.mount / "attributes-link", "trusted.l", follow_symlinks=False), b"x")
        self.assertEqual(os.getxattr(there, "user.d"), b"y")
        self.assertEqual(outcome(os.getxattr, there, "security.capability"), "ENODATA")

    def test_listings_ask_nothing_when_warm(self):
        server = self.world.server("quiet", self.world.directories("quiet"))
        server.start()
        for d in range(20):
            (server.mount / f"d{d}").mkdir()
            for n in range(100):
                os.mknod(server.mount / f"d{d}/f{n}", 0o644)
        os.setxattr(server.mount / "d0/f0", "user.x", b"y")
        server.flush()

        def requests(*command):
            for _ in range(2):  # the second is warm
                before = server.status()["fs"]["requests"]
                subprocess.run(command, cwd=server.mount, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            return server.status()["fs"]["requests"] - before

        found = {"ls -lR": requests("ls", "-lR"), "ls -lR --color": requests("ls", "-lR", "--color=always")}
        if shutil.which("getfacl"):
            found["getfacl -R"] = requests("getfacl", "-R", ".")
        if shutil.which("getfattr"):
            found["getfattr -R"] = requests("getfattr", "-d", "-R", ".")
        print(f"requests for 2,021 inodes, warm: {found}")
        asked = 2021 if lists_attributes() else 0
        self.assertLess(found["ls -lR"], asked + 60)
        self.assertLess(found["ls -lR --color"], asked + 60)
        # security.capability is asked for again once there may be one.
        os.setxattr(server.mount / "d0/f0", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
        capability = subprocess.run(["getcap", "d0/f0"], cwd=server.mount, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                    text=True, check=False) if shutil.which("getcap") else None
        if capability:
            self.assertIn("cap_net_bind_service", capability.stdout)
        self.assertEqual(outcome(os.getxattr, server.mount / "d1", "security.capability"), errno.errorcode[errno.ENODATA])
        self.assertEqual(server.stop(), 0)


def lists_attributes():
    """ls of coreutils 9.5 and later lists the attributes of each file, which nothing spares."""
    version = subprocess.run(["ls", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")[0]
    return tuple(int(n) for n in version.split()[-1].split(".")[:2]) >= (9, 5)


if __name__ == "__main__":
    main()
