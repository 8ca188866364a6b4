"""kill -9 of every process at random, with a checker on both sides: the daemons of two servers, their guards and the gateways
of both regions are killed and started again, while clients of both servers write, append, map, rename, link and remove in
directories of their own and in shared ones.

  - Right after each start of a daemon its clients' own directories are exactly what was acknowledged before; the one call that
    was under way has happened, or not, or a write in part.
  - In the end both servers and both buckets hold exactly that, and the same of what was shared.
  - Each version of the shared files that was written over unseen won or is listed as a conflict, and its content is kept.
  - Nothing is parked, held, damaged, lost or left over.

SECONDS_OF_KILLS (20) and SEED by hand."""
import collections
import ctypes
import hashlib
import json
import os
import pathlib
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unittest

from harness import MERIDIAN, Ceph, World, converge, main, wait_until
from programs import ROOT
from soak import VERSIONS, Tree, diff, observe, replay, settle, version_bytes

SECONDS = float(os.environ.get("SECONDS_OF_KILLS", "20"))
LARGE = int(os.environ.get("LARGE_MIB", "0")) << 20
CACHE = os.environ.get("CACHE_SIZE", "0")
OWN = 2  # clients with a directory of their own, on each server
CLIENT = pathlib.Path(__file__).resolve().parent / "soak.py"
# A call may wait for content as long as no region answers; a dead daemon frees it at once.
CALL_TIME = 60
PR_SET_CHILD_SUBREAPER = 36


class Daemon:
    """A daemon in the background, as subprocess.Popen would show it: whose parent ends is this process's child."""

    def __init__(self, pid):
        self.pid, self.code = pid, None

    def poll(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, timeout=60):
        wait_until(f"{self.pid} ends", lambda: self.poll() is not None, timeout, 0.02)
        return self.code

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def guard(self):
        """The process id of its guard (fs/guard.c), or None."""
        try:
            children = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return None
        for child in children:
            if pathlib.Path(f"/proc/{child}/comm").read_text(encoding="utf-8").strip() == "meridian-guard":
                return int(child)
        return None


class Client:
    """One process with its directory, log and, where nobody else writes there, model."""

    def __init__(self, side, kind, name, directory):
        self.side, self.kind, self.name, self.directory = side, kind, name, directory
        self.root = side.server.mount / directory
        self.log = side.server.root / f"log-{name}"
        self.start_file = side.server.root / f"start-{name}"
        self.tree, self.process, self.sessions, self.calls = Tree(), None, 0, collections.Counter()
        self.versions, self.cut, self.done = {}, set(), set()

    def start(self):
        self.sessions += 1
        self.log.unlink(missing_ok=True)
        self.start_file.write_bytes(pickle.dumps({"tree": self.tree, "large": LARGE if self.name.endswith("own0") else 0}))
        seed = f"{self.side.soak.world.seed}.{self.name}.{self.sessions}"
        self.process = subprocess.Popen([sys.executable, str(CLIENT), self.kind, str(self.root), str(self.log), str(self.start_file),
                                         seed, f"{self.name}.{self.sessions}"], stdin=subprocess.DEVNULL)

    def ask_to_stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def ended(self):
        """Takes the log in. Returns the call that was under way."""
        self.process.wait(CALL_TIME)
        if self.kind == "private":
            pending, error = replay(self.tree, self.log)
        else:
            pending, error = self.read_versions()
        if self.process.returncode not in (0, -signal.SIGTERM) and not self.side.killed:
            raise AssertionError(f"{self.name} ended while its daemon was well: {self.process.returncode} {error} {pending}")
        self.count()
        self.process = None
        return pending

    def lines(self):
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()] if self.log.exists() else []

    def count(self):
        for line in self.lines():
            kind = next((name for name in ("begin", "error", "stale") if name in line), "-")
            self.calls[line["begin"].get("op", "version") if kind == "begin" else kind] += 1

    def read_versions(self):
        error = None
        for line in self.lines():
            if self.kind == "mess":
                error = line if "error" in line else None
            elif "begin" in line:
                self.versions[line["begin"]["id"]] = line["begin"]
            elif "cut" in line:
                self.cut.add(line["cut"])
            elif "done" in line:
                self.done.add(line["done"])
            elif "error" in line:
                error = line
        return None, error


class Side:
    def __init__(self, soak, server):
        self.soak, self.server, self.killed, self.guarded = soak, server, False, True
        name = server.name
        self.clients = [Client(self, "private", f"{name}-own{n}", f"{name}{n}") for n in range(OWN)]
        self.clients += [Client(self, "versions", f"{name}-versions", "versions"), Client(self, "mess", f"{name}-mess", "mess")]
        self.starts = 0

    def mount(self):
        """As mount(8) does, over a dead mount if there is one."""
        run = subprocess.run([self.soak.helper, self.server.config, self.server.mount, "-o", "rw"], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
        if run.returncode:
            raise AssertionError(f"{self.server.name} does not mount: {run.stdout}")
        self.server.process = Daemon(self.server.status()["pid"])
        self.killed, self.guarded = False, True
        self.starts += 1

    def kill(self):
        for client in self.clients:
            client.ask_to_stop()
        self.server.process.kill()
        self.killed = True
        self.server.process.wait()

    def start_clients(self):
        for client in self.clients:
            client.start()

    def stop_clients(self):
        """Returns what was under way of each client."""
        for client in self.clients:
            client.ask_to_stop()
        return [client.ended() for client in self.clients]

    def check(self, pending, when):
        """What is there of the clients' own directories is what was acknowledged."""
        for client, under_way in zip(self.clients, pending):
            if client.kind == "private":
                client.tree, lines = settle(client.tree, under_way, observe(client.root))
                if lines:
                    raise AssertionError(f"{client.name} {when}, under way {under_way}:\n" + "\n".join(lines[:40]))

    def start_again(self):
        """Clients end before the new daemon is there, unless they hang because the guard was killed, too."""
        pending = None if not self.guarded else self.stop_clients()
        self.mount()
        if pending is None:
            self.killed = True
            pending = self.stop_clients()
            self.killed = False
        self.check(pending, f"after start {self.starts}")
        self.start_clients()


class Soak(unittest.TestCase):
    def setUp(self):
        if not ROOT:
            self.skipTest("needs root")
        self.world = World()
        self.addCleanup(self.world.close)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.helper = self.world.dir / "mount.fuse.meridian"
        self.helper.symlink_to(pathlib.Path(MERIDIAN).resolve())
        self.ceph = Ceph(self.world, gateways=2)
        self.regions = {f"region-{n}": self.ceph.region(n) for n in (1, 2)}
        self.sides = []
        for n, name in enumerate("ab", 1):
            volume = {"log_file": self.world.dir / name / "log", "cache_size": CACHE}
            server = self.world.server(name, self.regions, home=f"region-{n}", volume=volume)
            self.sides.append(Side(self, server))
        self.addCleanup(self.end_clients)
        self.gateways, self.kills = {}, collections.Counter()

    def end_clients(self):
        for side in self.sides:
            for client in side.clients:
                if client.process and client.process.poll() is None:
                    client.process.kill()

    # ---- killing ----

    def restart_gateway(self, n):
        self.ceph.restart(n)
        del self.gateways[n]

    def one_kill(self, due):
        """Kills something that lives; adds its restart to due."""
        random = self.world.random
        victim = random.choice(("a", "b", "a", "b", "guard", "gateway", "gateway"))
        at = time.monotonic() + random.choice((0, 0.5, 2, 5)) * random.random()
        if victim == "gateway":
            n = random.choice((1, 2))
            if n in self.gateways:
                return
            self.gateways[n] = True
            self.ceph.kill(n)
            due.append((at, lambda: threading.Thread(target=self.restart_gateway, args=(n,)).start()))
        elif victim == "guard":
            side = random.choice(self.sides)
            guard = None if side.killed else side.server.process.guard()
            if guard is None:
                return
            os.kill(guard, signal.SIGKILL)
            side.guarded = False
        else:
            side = self.sides["ab".index(victim)]
            if side.killed:
                return
            side.kill()
            due.append((at, side.start_again))
        self.kills[victim] += 1

    def look_after(self):
        for side in self.sides:
            if side.killed:
                continue
            if side.server.process.poll() is not None:
                raise AssertionError(f"{side.server.name}: the daemon ended by itself: {side.server.process.code}")
            for client in side.clients:
                if client.process.poll() is not None:
                    client.ended()
                    raise AssertionError(f"{client.name} ended by itself")

    def kill_for(self, seconds):
        end, due = time.monotonic() + seconds, []
        next_kill = time.monotonic() + 1
        while time.monotonic() < end or due:
            now = time.monotonic()
            for item in [d for d in due if d[0] <= now]:
                due.remove(item)
                item[1]()
            if next_kill <= now < end:
                self.one_kill(due)
                next_kill = time.monotonic() + self.world.random.choice((0.3, 1, 3, 6)) * self.world.random.random()
            self.look_after()
            time.sleep(0.02)
        wait_until("the gateways are back", lambda: not self.gateways, 60)

    # ---- checking ----

    def objects(self, n):
        """Key below the prefix -> SHA-256 of the object in region n."""
        client, found = self.ceph.client(n), {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.ceph.buckets[n - 1], Prefix="app/"):
            for item in page.get("Contents", []):
                if not item["Key"].startswith("app/.meridian/"):
                    body = client.get_object(Bucket=self.ceph.buckets[n - 1], Key=item["Key"])["Body"].read()
                    found[item["Key"][4:]] = hashlib.sha256(body).hexdigest()
        return found

    def service_objects(self, n, folder):
        pages = self.ceph.client(n).get_paginator("list_objects_v2").paginate(
            Bucket=self.ceph.buckets[n - 1], Prefix=f"app/.meridian/{folder}/")
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def wrong_objects(self, want):
        lines, regions = [], [self.objects(n) for n in (1, 2)]
        for n, found in enumerate(regions, 1):
            for key in sorted(want.keys() | found.keys()):
                if want.get(key) == found.get(key) or regions[0].get(key) == regions[1].get(key) and self.may_differ(key, want):
                    continue
                lines.append(f"region {n}: {key}: {want.get(key, 'no file')[:12]} here, {found.get(key, 'no object')[:12]} there")
        return lines

    @staticmethod
    def may_differ(key, want):
        """A directory that nobody made is there for what lies below it, over a file of its name perhaps: both only where all
        sides make and remove the same names."""
        directory = key.rstrip("/") + "/"
        return key.startswith("mess/") and directory in want and any(k.startswith(directory) and k != directory for k in want)

    def check_buckets(self):
        want = {}
        for path, node in observe(self.sides[0].server.mount).items():
            key = path + "/" if node.kind == "d" else path
            want[key] = hashlib.sha256(node.target.encode() if node.kind == "l" else node.data).hexdigest()
        wait_until(lambda: "\n".join(["the buckets hold the same", *self.wrong_objects(want), *self.about_wrong(want)]),
                   lambda: not self.wrong_objects(want), 60, 1)

    def about_wrong(self, want):
        """For a failure: all that there is to know of such objects."""
        for line in self.wrong_objects(want):
            key = line.split(": ")[1]
            for n in (1, 2):
                try:
                    head = self.ceph.client(n).head_object(Bucket=self.ceph.buckets[n - 1], Key=f"app/{key}")
                    yield f"{n} {key}: {head['ContentLength']} bytes {head['LastModified']} {head['ETag']} {head['Metadata']}"
                except Exception as error:  # pylint: disable=broad-except
                    yield f"{n} {key}: {error}"

    def check_models(self):
        for side in self.sides:
            for client in side.clients:
                for other in self.sides:
                    if client.kind == "private":
                        lines = diff(client.tree, observe(other.server.mount / client.directory))
                        self.assertEqual(lines, [], f"{client.name} on {other.server.name}")

    def check_status(self):
        for side in self.sides:
            def left(side=side):
                status = side.server.status()
                figures = {name: status[name] for name in ("journal_rows", "held", "bad_segments", "refresh")}
                figures |= {f"{r['name']} {name}": r[name] for r in status["regions"] for name in ("backlog_rows", "backlog_parked", "uploads")}
                figures |= {name: status["cache"][name] for name in ("files_busy", "files_lost", "cut_short")}
                figures |= {name: n for name, n in status["counters"].items() if name in ("objects_corrupt_total", "content_lost_total")}
                figures |= {f"{r['name']} down": not r["up"] for r in status["regions"]}
                return {name: n for name, n in figures.items() if n}

            wait_until(lambda: f"{side.server.name}: {left()}", lambda: not left(), 60, 0.3)
        for n in (1, 2):
            uploads = self.ceph.client(n).list_multipart_uploads(Bucket=self.ceph.buckets[n - 1]).get("Uploads", [])
            # What a server was killed in the middle of finding out is aborted by a later start, an hour on.
            left = [u["Key"] for u in uploads if not u["Key"].startswith("app/.meridian/probe/")]
            self.assertEqual(left, [], f"uploads left in region {n}")
            self.assertLessEqual(len(uploads), sum(s.starts for s in self.sides))
            self.assertEqual(self.service_objects(n, "conflicts"), [], "nobody else wrote into the buckets")
            trash = len(self.service_objects(n, "trash"))
            removals = sum(c.calls[op] for s in self.sides for c in s.clients for op in ("unlink", "rename", "exchange", "create"))
            print(f"region {n}: {trash} objects in the trash, {len(self.service_objects(n, 'log'))} segments; "
                  f"{removals} removals and renames")
            self.assertLessEqual(trash, 2 * removals + 100, "the trash is bounded by what was removed or replaced")

    def versions_on(self, server):
        final = {}
        for n in range(VERSIONS):
            head = (server.mount / "versions" / f"v{n}").read_bytes()
            final[f"v{n}"] = hashlib.sha256(head).hexdigest()
        return final

    def check_versions(self, final):
        """After the daemons' end: their databases say what lost."""
        clients = [c for s in self.sides for c in s.clients if c.kind == "versions"]
        versions = {i: v for c in clients for i, v in c.versions.items()}
        cut, done = (set().union(*(getattr(c, name) for c in clients)) for name in ("cut", "done"))
        known = {i: hashlib.sha256(version_bytes(v)).hexdigest() for i, v in versions.items()}
        listed, kept = {}, set()
        for side in self.sides:
            for key, digest, path in conflicts(side.server.state):
                listed.setdefault(digest, set()).add(key)
                if path and path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                    kept.add(digest)
        # Whether the call that was under way at a kill had emptied the file is not known: then its content was replaced.
        perhaps = {v["parent"] for i, v in versions.items() if i not in cut | done}
        superseded = {versions[i]["parent"] for i in cut | done} | perhaps
        lost = [i for i in done if i not in superseded and known[i] not in listed and final[versions[i]["file"]] != known[i]]
        self.assertEqual([versions[i] for i in lost], [], "neither the winner, nor seen by who wrote over it, nor listed")
        losers = [i for i in done if i not in superseded and known[i] in listed]
        print(f"{len(done)} versions, {len(superseded)} replaced by who saw them ({len(perhaps)} of them perhaps), "
              f"{len(losers)} listed as conflicts")
        self.assertEqual([versions[i] for i in losers if known[i] not in kept], [], "listed, and content not kept by any server")

    def test_kill_everything(self):
        for side in self.sides:
            side.mount()
        for side in self.sides:
            for client in side.clients:
                client.root.mkdir(exist_ok=True)
            if side is self.sides[0]:
                for n in range(VERSIONS):
                    (client.side.server.mount / "versions" / f"v{n}").write_bytes(b"0 - -\n")
                converge(*(s.server for s in self.sides))
        for side in self.sides:
            side.start_clients()
        self.kill_for(SECONDS)
        for side in self.sides:
            self.assertEqual([p for p in side.stop_clients() if p], [])
            side.check([None] * len(side.clients), "at the end")
        calls = {c.name: sum(c.calls.values()) - c.calls["-"] for s in self.sides for c in s.clients}
        print(f"killed {dict(self.kills)}; calls {calls}")
        converge(*(s.server for s in self.sides), timeout=180)
        for side in self.sides:
            wait_until(side.server.status_text, lambda: side.server.backlog() == 0, 60)
        self.check_models()
        self.check_buckets()
        self.check_status()
        final = self.versions_on(self.sides[0].server)
        for side in self.sides:
            self.assertEqual(side.server.stop(), 0, side.server.tail())
            side.server.run("check", str(side.server.config), timeout=300)
            self.assertEqual([p for p in (side.server.state / "snapshot").glob("*")], [], "snapshots are left")
        self.check_versions(final)


def conflicts(state):
    """Of each conflict of a file: its key, the hash of what lost, and where its content is kept (or None)."""
    database = sqlite3.connect(f"file:{state}/meridian.db?mode=ro", uri=True)
    found = []
    for key, loser, ino in database.execute("SELECT key, loser, ino FROM conflict"):
        if loser[1] != 1:
            continue
        at = 2
        while loser[at] & 0x80:  # the size
            at += 1
        name = f"{ino:016x}"
        found.append((key.decode(), loser[at + 1:at + 33].hex(), state / "content" / name[12:14] / name if ino else None))
    database.close()
    return found


if __name__ == "__main__":
    main()
