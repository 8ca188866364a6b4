"""Owners and modes: who may change what, and what becomes of suid and sgid, beside the file system below; and mounts that
number their users otherwise."""
import os
import subprocess
import unittest

from harness import World, main, names, skip, wait_until
from beside import as_user, open_to_all, outcome, owner


def write(path):
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"more")
    os.close(fd)


def write_synced(path):
    fd = os.open(path, os.O_WRONLY | os.O_SYNC)
    os.pwrite(fd, b"more", 2)
    os.close(fd)


def append(path):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"more")
    os.close(fd)


def reopen_truncated(path):
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def truncate_open(path):
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, 1)
    os.close(fd)


def allocate(path):
    fd = os.open(path, os.O_WRONLY)
    os.posix_fallocate(fd, 0, 100)
    os.close(fd)


MODES = [0o4777, 0o2777, 0o2767, 0o6777, 0o6666, 0o2747]
# What is done to a file of user 1000 and group 1001.
ACTIONS = {
    "write": write,
    "write O_SYNC": write_synced,
    "append": append,
    "O_TRUNC": reopen_truncated,
    "truncate": lambda p: os.truncate(p, 1),
    "truncate to the same size": lambda p: os.truncate(p, 4),
    "ftruncate": truncate_open,
    "fallocate": allocate,
    "chown to itself": lambda p: os.chown(p, 1000, 1001),
    "chown -1 -1": lambda p: os.chown(p, -1, -1),
    "chgrp to a group of mine": lambda p: os.chown(p, -1, 1002),
    "chgrp to another": lambda p: os.chown(p, -1, 999),
    "give away": lambda p: os.chown(p, 1003, -1),
    "chmod 6755": lambda p: os.chmod(p, 0o6755),
    "chmod 0700": lambda p: os.chmod(p, 0o700),
    "utime": lambda p: os.utime(p),
    "utime to a date": lambda p: os.utime(p, (5, 5)),
    "setxattr": lambda p: os.setxattr(p, "user.x", b"y"),
    "read": lambda p: p.read_bytes(),
}
USERS = {
    "root": (0, 0, []),
    "the owner": (1000, 1001, [1001, 1002]),
    "the owner, not in the group": (1000, 1000, [1002]),
    "a member": (1004, 1001, [1001]),
    "a stranger": (1005, 1005, []),
}


class Owner(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        if os.geteuid() != 0:
            skip("needs root")
        cls.regions = cls.world.directories("east", "west")
        cls.a = cls.world.server("a", cls.regions, home="east")
        cls.native = open_to_all(cls.world, cls.a)
        cls.a.start()

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def both(self, name):
        for root in (self.a.mount / name, self.native / name):
            root.mkdir()
            os.chmod(root, 0o777)
            yield root

    def test_set_id_bits_and_permissions(self):
        results = []
        for root in self.both("bits"):
            found = {}
            for user, who in USERS.items():
                for what, action in ACTIONS.items():
                    for bits in MODES:
                        path = root / "f"
                        path.write_bytes(b"text")
                        os.chown(path, 1000, 1001)
                        os.chmod(path, bits)
                        result = as_user(*who, action, path)
                        found[user, what, oct(bits)] = (result, owner(path), path.stat().st_size)
                        path.unlink()
            results.append(found)
        different = {key: (ours, results[1][key]) for key, ours in results[0].items() if ours != results[1][key]}
        self.assertEqual(different, {}, "\n" + "\n".join(f"{key}: ours {a}, below {b}" for key, (a, b) in different.items()))
        self.assertEqual(results[0]["a stranger", "write", "0o6777"], (None, "1000:1001 0o777", 4))

    def test_directories(self):
        results = []
        for root in self.both("directories"):
            found = []
            group = root / "group"
            group.mkdir()
            os.chown(group, 1000, 1001)
            os.chmod(group, 0o2777)
            for name, who in USERS.items():
                directory, path, bits = group / f"d {name}", group / f"f {name}", group / f"x {name}"

                def make(p=path, b=bits, d=directory):
                    p.touch()
                    d.mkdir()
                    (d / "inside").mkdir()
                    os.close(os.open(b, os.O_CREAT | os.O_WRONLY, 0o2775))
                    os.symlink("x", str(p) + ".link")

                found.append((name, as_user(*who, make, umask=0)))
                found += [owner(p) for p in (path, directory, directory / "inside", bits, str(path) + ".link")]
            sticky = root / "sticky"
            sticky.mkdir()
            os.chmod(sticky, 0o1777)
            for name, who in USERS.items():
                path = sticky / "f"
                path.touch()
                os.chown(path, 1000, 1001)
                os.chmod(path, 0o666)
                found.append((name, as_user(*who, os.rename, path, sticky / "g"), as_user(*who, os.unlink, sticky / "f"),
                              as_user(*who, os.unlink, sticky / "g")))
                (sticky / "f").unlink(missing_ok=True)
                (sticky / "g").unlink(missing_ok=True)
            closed = root / "closed"
            closed.mkdir(mode=0o711)
            (closed / "f").write_text("x")
            for who in USERS.values():
                found.append((as_user(*who, os.listdir, closed), as_user(*who, (closed / "f").read_text),
                              as_user(*who, (closed / "new").touch), as_user(*who, os.access, closed, os.W_OK),
                              as_user(*who, os.access, closed / "f", os.X_OK)))
            results.append(found)
        self.assertEqual(results[0], results[1])
        self.assertIn("1005:1001 0o775", results[0])  # the setgid bit that a stranger asked for

    def test_umask_and_mknod(self):
        results = []
        for root in self.both("umask"):
            for mask in (0, 0o22, 0o77, 0o137):
                def make(m=mask):
                    os.close(os.open(root / f"f{m}", os.O_CREAT | os.O_WRONLY, 0o666))
                    os.mknod(root / f"n{m}", 0o640)
                    os.mkdir(root / f"d{m}")
                as_user(1000, 1000, [], make, umask=mask)
            results.append(sorted((p.name, owner(p)) for p in root.iterdir()))
        self.assertEqual(results[0], results[1])

    def test_maps_differ_between_servers(self):
        regions = self.world.directories("maps")
        one = self.world.server("one", regions, volume={"map_uid": "1000:2000", "map_gid": "1001:2001, 1002:2002"})
        two = self.world.server("two", regions, volume={"map_uid": "3000:2000"})
        plain = self.world.server("plain", regions)
        forced = self.world.server("forced", regions, volume={"uid": "1234", "gid": "1235", "umask": "027"})
        servers = (one, two, plain, forced)
        open_to_all(self.world, *servers)
        for server in servers:
            server.start()
        os.chmod(one.mount, 0o777)
        as_user(1000, 1001, [], (one.mount / "mine").write_text, "text", umask=0)
        os.chmod(one.mount / "mine", 0o2775)
        (one.mount / "root").touch()
        (one.mount / "other").touch()
        os.chown(one.mount / "other", 2000, 77)
        os.setxattr(one.mount / "mine", "system.posix_acl_access", bytes.fromhex(
            "0200000001000700ffffffff02000700e803000004000500ffffffff10000700ffffffff20000500ffffffff"))
        self.assertEqual(owner(one.mount / "mine"), "1000:1001 0o2775")
        for server in servers:
            server.flush()
        for server in servers[1:]:
            converge_names(one, server)
        self.assertEqual(owner(two.mount / "mine"), "3000:2001 0o2775")
        self.assertEqual(owner(plain.mount / "mine"), "2000:2001 0o2775")
        self.assertEqual(owner(forced.mount / "mine"), "1234:1235 0o2750")
        self.assertEqual([owner(s.mount / "root") for s in servers],
                         ["0:0 0o644", "0:0 0o644", "0:0 0o644", "1234:1235 0o640"])
        # The volume's 1000 is shown as the number that the pair left free: no two owners as one.
        self.assertEqual(owner(one.mount / "other"), "2000:77 0o644")
        self.assertEqual(owner(plain.mount / "other"), "1000:77 0o644")
        acl = {s.name: os.getxattr(s.mount / "mine", "system.posix_acl_access").hex() for s in servers[:3]}
        self.assertIn("02000700e8030000", acl["one"])
        self.assertIn("02000700b80b0000", acl["two"])
        self.assertIn("02000700d0070000", acl["plain"])
        # The owner is the owner everywhere, and only there.
        self.assertIsNone(as_user(3000, 3000, [], os.chmod, two.mount / "mine", 0o640))
        self.assertEqual(as_user(2000, 2000, [], os.chmod, two.mount / "mine", 0o640), "EPERM")
        # Where another owner is shown nothing is given away, hidden bits stay, and what is made belongs to its maker.
        self.assertEqual(outcome(os.chown, forced.mount / "mine", 5, -1), "EPERM")
        self.assertIsNone(outcome(os.chown, forced.mount / "mine", 1234, 1235))
        forced_file = forced.mount / "root"
        os.chmod(forced_file, 0o700)
        self.assertEqual(owner(forced_file), "1234:1235 0o700")
        self.assertEqual(as_user(1234, 1235, [], os.chmod, forced_file, 0o600), None)
        (forced.mount / "made").touch()
        os.chmod(forced.mount / "made", 0o600)
        for server in servers:
            server.flush()
        for server in servers:
            converge_names(forced, server)
        self.wait_owner(plain.mount / "root", "0:0 0o604")
        self.wait_owner(plain.mount / "made", "0:0 0o604")
        self.assertEqual(owner(plain.mount / "mine")[:9], "2000:2001")
        # Another map at the next mount rewrites nothing.
        self.assertEqual(one.stop(), 0)
        one.start(options=["-o", "map_uid=5000:2000,map_gid=5001:2001"])
        self.assertEqual(owner(one.mount / "mine")[:9], "5000:5001")
        self.assertEqual(owner(plain.mount / "mine")[:9], "2000:2001")
        for server in servers:
            self.assertEqual(server.stop(), 0)

    def wait_owner(self, path, wanted):
        wait_until(lambda: f"{path}: {owner(path)}, not {wanted}", lambda: owner(path) == wanted, 60)

    def test_wrong_maps_are_refused(self):
        for option, words in {
                "map_uid=1000:2000\\,1000:3": ["map_uid", "1000 is there twice"],
                "map_uid=nobody-of-that-name:5": ["there is no user", "nobody-of-that-name"],
                "map_gid=1000": ["map_gid", "not a pair", "LOCAL:VOLUME"],
                "map_gid=0:wheel": ["\"wheel\" is not a number"],
                "uid=no-such-user": ["-o uid", "there is no user"],
                "gid=-1": ["-o gid", "-1"],
                "umask=089": ["-o umask", "octal"],
                "umsk=022": ["umsk", "unknown option", "umask"],
                "map_uids=1:2": ["map_uids", "map_uid"],
        }.items():
            with self.subTest(option):
                server = self.world.server("wrong", self.regions)
                code, text = server.start(check=False, options=["-o", option])
                self.assertNotEqual(code, 0)
                for word in words:
                    self.assertIn(word, text)
                self.assertLessEqual(len(text.strip().splitlines()), 2, text)
                helper = subprocess.run(["bash", "-c", 'exec -a mount.meridian "$0" "$@"', os.environ["MERIDIAN"],
                                         server.config, server.mount, "-o", f"rw,_netdev,{option}"],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
                self.assertNotEqual(helper.returncode, 0)
                for word in words:
                    self.assertIn(word, helper.stdout)


def converge_names(one, other):
    wait_until(f"the same names on {one.name} and {other.name}", lambda: names(one.mount) == names(other.mount), 60)


if __name__ == "__main__":
    main()
