"""POSIX ACLs: setfacl, getfacl, chmod, inheritance and access checks give on the mount what they give on the file system
below; they replicate, and what a bucket holds is checked."""
import os
import shutil
import subprocess

from harness import converge, main, skip
from beside import Beside, as_user, mode, outcome

OPERATIONS = [
    "touch f && chmod 640 f && setfacl -m u:1000:rwx f",
    "getfacl -n f && stat -c %A f",
    "chmod g=r f && getfacl -n f",
    "chmod 771 f && getfacl -n f",
    "setfacl -m g:1001:x,m::r f && getfacl -n f && stat -c %A f",
    "setfacl -x u:1000 f && getfacl -n f",
    "setfacl -b f && getfacl -n f && stat -c %A f && getfattr -d -m - f",
    "setfacl -m u::rwx,g::rx,o::- f && getfattr -d -m - f && stat -c %A f",
    "mkdir d && setfacl -d -m u:1000:rwx,g::rx d && getfacl -n d && stat -c %A d",
    "umask 077 && touch d/file && mkdir d/dir && cp f d/copy && ln -s nowhere d/link && mkdir -m 700 d/narrow",
    "find d -not -type l | sort | xargs getfacl -n; find d -printf '%p %M\\n' | sort",
    "umask 077 && mkdir d/dir/deeper && getfacl -n d/dir/deeper",
    "setfacl -d -m o::rx d/dir && umask 0 && touch d/dir/open && getfacl -n d/dir/open && stat -c %A d/dir/open",
    "cp -p d/file kept && getfacl -n kept",
    "mv d/file moved && getfacl -n moved",
    "sed -i s/a/b/ moved; getfacl -n moved",
    "setfacl -k d && getfacl -n d && touch d/plain && getfacl -n d/plain",
    "setfacl -d -m u:1:rwx f; echo $?",
    "setfacl -m u:1000:rwx d/link; echo $?; stat -c %A d/link",
    "mkdir g && chgrp 1001 g && chmod 2775 g && setfacl -m u:1000:rwx g && stat -c %A g && mkdir g/s && stat -c '%A %g' g/s",
    "setfattr -n system.posix_acl_access -v 0x0200000001000600 f; echo $?",
    "setfattr -n system.posix_acl_access -v 0x0300000001000600ffffffff04000400ffffffff20000000ffffffff f; echo $?",
    "setfattr -n system.posix_acl_access -v 0x0200000001000600ffffffff04000400ffffffff20000000ffffffff f; stat -c %A f",
    "setfattr -x system.posix_acl_access f; echo $?; setfattr -x system.posix_acl_default d; echo $?",
    "getfattr -n system.posix_acl_access f; echo $?",
    "touch big && setfacl -m $(seq -s, -f u:%.0f:r 2000 2300) big && getfacl -n big | md5sum",
]


class Acl(Beside):
    @classmethod
    def setUpClass(cls):
        if not shutil.which("setfacl"):
            skip("the package acl is not installed")
        super().setUpClass()

    @staticmethod
    def shell(command, directory):
        run = subprocess.run(command, shell=True, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, check=False, env={**os.environ, "LC_ALL": "C"})
        return run.stdout

    def test_the_same_as_below(self):
        ours, native = self.a.mount / "same", self.native / "same"
        ours.mkdir()
        native.mkdir()
        for command in OPERATIONS:
            with self.subTest(command):
                self.assertEqual(self.shell(command, ours), self.shell(command, native))
        converge(self.a, self.b)
        listing = "getfacl -nR . | sort"
        self.assertEqual(self.shell("getfacl -nR same", self.a.mount), self.shell("getfacl -nR same", self.b.mount))
        self.assertIn("user:1000:rwx", self.shell(listing, self.b.mount / "same"))
        # In the state too: after a restart the same.
        before = self.shell("getfacl -nR same", self.a.mount)
        self.a.kill()
        self.a.start()
        self.assertEqual(self.shell("getfacl -nR same", self.a.mount), before)

    def test_access_is_checked(self):
        results = []
        for root in (self.a.mount / "access", self.native / "access"):
            root.mkdir(mode=0o755)
            path = root / "f"
            path.write_text("secret")
            path.chmod(0o600)
            as_1000 = (1000, 1000, [])

            def read(p):
                return p.read_text()

            def write(p):
                with open(p, "a", encoding="utf-8") as f:
                    f.write("x")
                return "written"

            found = [as_user(*as_1000, read, path)]
            subprocess.run(["setfacl", "-m", "u:1000:r", path], check=True)
            found += [as_user(*as_1000, read, path), as_user(*as_1000, write, path), as_user(1001, 1000, [], read, path)]
            subprocess.run(["setfacl", "-m", "g:77:rw,m::r", path], check=True)
            found += [as_user(1001, 1001, [77], read, path), as_user(1001, 1001, [77], write, path)]
            path.chmod(0o660)  # the mask
            found += [as_user(1001, 1001, [77], write, path), as_user(1001, 1001, [78], read, path)]
            subprocess.run(["setfacl", "-m", "u:1001:-", path], check=True)
            found += [as_user(1001, 1001, [77], read, path), as_user(*as_1000, os.access, path, os.R_OK),
                      as_user(*as_1000, os.access, path, os.W_OK)]
            subprocess.run(["setfacl", "-b", path], check=True)
            path.chmod(0o604)
            found += [as_user(*as_1000, read, path), mode(path)]
            # Only the owner may set them; a setgid bit goes when the caller is not in the group.
            found.append(as_user(*as_1000, lambda p: os.setxattr(p, "system.posix_acl_access", bytes.fromhex(
                "0200000001000600ffffffff04000400ffffffff20000000ffffffff")), path))
            other = root / "g"
            other.touch()
            os.chown(other, 1000, 1001)
            other.chmod(0o2775)
            found.append(as_user(*as_1000, lambda p: os.setxattr(p, "system.posix_acl_access", bytes.fromhex(
                "0200000001000700ffffffff02000700e703000004000500ffffffff10000700ffffffff20000000ffffffff")), other))
            found.append(mode(other))
            other.chmod(0o2775)
            found.append(as_user(1000, 1000, [1001], lambda p: os.setxattr(p, "system.posix_acl_access", bytes.fromhex(
                "0200000001000700ffffffff02000700e703000004000500ffffffff10000700ffffffff20000000ffffffff")), other))
            found.append(mode(other))
            results.append(found)
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0][:3], ["EACCES", "secret", "EACCES"])

    def test_a_remote_change_is_checked_at_once(self):
        path = self.a.mount / "shared"
        path.write_text("text")
        path.chmod(0o600)
        converge(self.a, self.b)
        there = self.b.mount / "shared"
        self.assertEqual(as_user(1000, 1000, [], there.read_text), "EACCES")
        subprocess.run(["setfacl", "-m", "u:1000:r", path], check=True)
        converge(self.a, self.b)
        self.assertEqual(as_user(1000, 1000, [], there.read_text), "text")
        subprocess.run(["setfacl", "-b", path], check=True)
        converge(self.a, self.b)
        self.assertEqual(as_user(1000, 1000, [], there.read_text), "EACCES")

    def test_mounted_with_an_owner_there_are_none(self):
        server = self.world.server("forced", self.world.directories("forced"), volume={"uid": "1000"})
        server.root.chmod(0o755)
        server.start()
        path = server.mount / "f"
        path.touch()
        self.assertEqual(outcome(os.getxattr, path, "system.posix_acl_access"), "ENOTSUP")
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
