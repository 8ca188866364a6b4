"""A full disk below the state directory: ENOSPC to the caller, no acknowledged byte lost, everything replicates once there is
space again."""
import errno
import os
import subprocess
import time
import unittest

from harness import World, converge, main, wait_until

LARGE = 600 << 20  # more than is copied and hashed while other sealing waits for it (cache/snapshot_job.c)


class Full(unittest.TestCase):
    def test_full_state_directory(self):
        world = World()
        regions = world.directories("east", "west")
        small = world.mount_tmpfs("small", "48m")
        ballast = small / "ballast"
        ballast.write_bytes(b"\0" * (8 << 20))
        a = world.server("a", regions, state=small / "state")
        b = world.server("b", regions, home="west")
        a.start()
        b.start()
        kept, refused = {}, 0
        for n in range(4000):
            data = f"{n}:".encode() * 8000
            path = a.mount / f"f{n}"
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
                refused += 1
                if refused > 20:
                    break
                continue
            try:
                written = os.write(descriptor, data)
                kept[path.name] = data[:written]
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
                refused += 1
                kept[path.name] = b""
            finally:
                os.close(descriptor)
            if refused > 20:
                break
        self.assertGreater(refused, 20, "the disk never filled up")
        self.assertGreater(len(kept), 100)
        for name, data in kept.items():
            self.assertEqual((a.mount / name).read_bytes(), data, name)
        removed = next(iter(kept))
        (a.mount / removed).unlink()
        del kept[removed]
        ballast.unlink()
        (a.mount / "after").write_text("space again")
        kept["after"] = b"space again"
        wait_until("everything is pushed", lambda: a.backlog() == 0, 90, 0.5)
        converge(a, b)
        self.assertEqual({p.name: p.read_bytes() for p in b.mount.iterdir()}, kept)
        world.close()

    def test_full_while_it_reads_along(self):
        """What another server writes does not fit: the merge stops in the middle, `status` says so, and it goes on when there is
        room, also after a kill; a program's own small write still finds the reserve."""
        world = World()
        regions = world.directories("east", "west")
        small = world.mount_tmpfs("small", "40m")
        a = world.server("a", regions)
        b = world.server("b", regions, home="west", state=small / "state")
        a.start()
        b.start()
        for n in range(10):
            (a.mount / f"d{n}").mkdir()
            for i in range(200):
                (a.mount / f"d{n}" / f"f{i}").write_bytes(world.random.randbytes(30_000))
        a.flush()

        def stopped():
            return "merging: No space left on device" in b.status()["stopped"]

        wait_until(lambda: f"it is said\n{b.status_text()}", stopped, 60)
        self.assertIn("cannot go on, and tries again: merging: No space left", b.status_text())
        b.kill()
        b.start()
        wait_until(lambda: f"it is said again\n{b.status_text()}", stopped, 60)
        subprocess.run(["mount", "-o", "remount,size=400m", small], check=True)
        converge(a, b)
        self.assertEqual(b.status()["stopped"], "")
        self.assertNotIn("cannot go on", b.status_text())
        world.end(a, b)

    def test_no_room_for_a_copy(self):
        """A large file is open, and there is no room for the copy that is sent: it is named, said once and tried again; others go on."""
        world = World()
        small = world.mount_tmpfs("small", "64m")
        a = world.server("a", world.directories("east"), state=small / "state", volume={"seal_after": "1s"})
        bucket = world.dir / "buckets" / "east"
        a.start()
        for name in ("d", "e"):
            (a.mount / name).mkdir()
        data = world.random.randbytes(30 << 20)
        with open(a.mount / "d" / "large", "wb", buffering=0) as file:
            file.write(data)
            file.truncate(LARGE)
            wait_until(a.status_text, lambda: a.status()["cache"]["files_failed"] == 1, 60)
            self.assertIn("d/large: no copy of it could be taken to be sent, tried again (No space left on device, since", a.status_text())
            refused = a.run("flush", str(a.config), check=False)
            self.assertIn("No space left on device", refused.stderr)
            time.sleep(4)  # it is tried twice more
            (a.mount / "e" / "small").write_bytes(b"x")
            wait_until("others are sent", (bucket / "e" / "small").exists, 60)
            self.assertFalse((bucket / "d" / "large").exists())
            self.assertEqual(a.status()["stopped"], "")
            self.assertEqual(a.tail().count("no copy of a changed file"), 1)
            subprocess.run(["mount", "-o", "remount,size=400m", small], check=True)
            wait_until(a.status_text, (bucket / "d" / "large").exists, 90)
            self.assertEqual(a.status()["cache"]["files_failed"], 0)
        a.flush()
        with open(bucket / "d" / "large", "rb") as file:
            self.assertEqual(file.read(len(data)), data)
            self.assertEqual(os.fstat(file.fileno()).st_size, LARGE)
        world.end(a)


if __name__ == "__main__":
    main()
