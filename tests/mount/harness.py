"""Real mounts for tests: volumes, servers (daemons), regions (directories or buckets on Ceph gateways).

Everything lives below one temporary directory and is ended by pid and unmounted on exit, also after a failure.
The program under test is $MERIDIAN (the meson tests set it)."""
import atexit
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SERVERS = HERE.parent / "contract" / "servers"
MERIDIAN = os.environ.get("MERIDIAN", "meridian")
MOUNT_SECONDS = 90  # a first mount waits 60 s for what is there (first_sync_timeout)


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def need_fuse():
    if not os.path.exists("/dev/fuse"):
        skip("/dev/fuse is not there")
    if os.geteuid() != 0 and not shutil.which("fusermount3"):
        skip("fusermount3 is not installed")


def wait_until(what, condition, timeout=60, interval=0.1):
    """Calls condition until it is true; fails with what (and its last value) after timeout seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what() if callable(what) else what}")
        time.sleep(interval)


class Ceph:
    """Three gateways on one cluster; region N is bucket region-N behind gateway N. compress: zeros take no memory."""

    def __init__(self, world, gateways=3, compress=False):
        self.dir = directory = world.dir / f"ceph{len(world.clusters)}"
        run = subprocess.run([SERVERS / "ceph", "start", directory, "--gateways", str(gateways), *(["--compress"] if compress else [])],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode == 77:
            skip(run.stdout.strip())
        if run.returncode:
            raise RuntimeError(f"Ceph did not start: {run.stdout}")
        world.clusters.append(self)
        self.buckets = [f"region-{n}" for n in range(1, gateways + 1)]
        subprocess.run([SERVERS / "ceph", "bucket", directory, *self.buckets], check=True)
        self.credentials = pathlib.Path(directory) / "credentials"
        env = self.env()
        self.credentials.write_text(
            f"[default]\naws_access_key_id = {env['S3_ACCESS_KEY']}\naws_secret_access_key = {env['S3_SECRET_KEY']}\n"
            "[wrong]\naws_access_key_id = TESTKEY\naws_secret_access_key = notthekey\n")
        self.credentials.chmod(0o600)

    def env(self):
        pairs = (line.split("=", 1) for line in (pathlib.Path(self.dir) / "env").read_text().splitlines())
        return {name: value.strip("'\"") for name, value in pairs}

    def region(self, n, profile="default"):
        """The configuration of region n (1-based)."""
        return {"url": f"s3://{self.buckets[n - 1]}/app", "endpoint": self.env()[f"S3_ENDPOINT_{n}"],
                "profile": profile, "credentials_file": str(self.credentials), "region": "us-east-1"}

    def user(self, name):
        """Another account, which the buckets of the first one are closed to: a profile of that name. Returns its keys."""
        keys = {"S3_ACCESS_KEY": name.upper(), "S3_SECRET_KEY": f"secret-of-{name}"}
        subprocess.run([SERVERS / "ceph", "user", self.dir, name, *keys.values()], check=True)
        with open(self.credentials, "a", encoding="utf-8") as file:
            file.write(f"[{name}]\naws_access_key_id = {keys['S3_ACCESS_KEY']}\naws_secret_access_key = {keys['S3_SECRET_KEY']}\n")
        return keys

    def kill(self, n):
        subprocess.run([SERVERS / "ceph", "gateway-kill", self.dir, str(n)], check=True)

    def restart(self, n):
        subprocess.run([SERVERS / "ceph", "gateway-start", self.dir, str(n)], check=True)

    def stop(self):
        subprocess.run([SERVERS / "ceph", "stop", self.dir], check=False)

    def pids(self):
        """Of all its processes: the store and the gateways."""
        return [int(file.read_text()) for file in (pathlib.Path(self.dir) / "ceph" / "run").glob("*.pid")]

    def client(self, n, keys=None):
        """A plain S3 client that knows nothing of Meridian; keys: of another user."""
        import boto3
        from botocore.config import Config
        env = {**self.env(), **(keys or {})}
        return boto3.client("s3", endpoint_url=env[f"S3_ENDPOINT_{n}"], region_name="us-east-1",
                            aws_access_key_id=env["S3_ACCESS_KEY"], aws_secret_access_key=env["S3_SECRET_KEY"],
                            config=Config(s3={"addressing_style": "path"}, proxies={}))


class Server:
    """One daemon with its state directory and mount point."""

    def __init__(self, world, name, regions, home=None, volume=None, state=None):
        self.world = world
        self.name = name
        self.root = world.dir / name
        self.root.mkdir(exist_ok=True)
        self.mount = self.root / "mnt"
        self.mount.mkdir(exist_ok=True)
        self.state = pathlib.Path(state) if state else self.root / "state"
        self.config = self.root / "meridian.conf"
        self.log = self.root / "log"
        self.process = None
        self.write_config(regions, home, volume or {})

    def write_config(self, regions, home, volume):
        home = home or next(iter(regions))
        settings = {"name": "test", "state_dir": self.state, "home": home, "poll_interval": "500ms", "reconcile_interval": "0", **volume}
        lines = ["[volume]", *(f"{key} = {value}" for key, value in settings.items())]
        for name, region in regions.items():
            lines += ["", f'[region "{name}"]', *(f"{key} = {value}" for key, value in region.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, check=True, options=()):
        """Mounts in the foreground; returns when mounted, or the exit code and text when it refuses."""
        with open(self.log, "ab") as log:
            at = log.tell()
            self.process = subprocess.Popen([MERIDIAN, "mount", "-f", *options, self.config, self.mount], stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + MOUNT_SECONDS
        while not self.mounted():
            if self.process.poll() is not None:
                text = self.log.read_bytes()[at:].decode(errors="replace")
                if check:
                    raise AssertionError(f"{self.name} did not mount ({self.process.returncode}): {text}")
                return self.process.returncode, text
            if time.monotonic() > end:
                raise AssertionError(f"{self.name} did not mount within {MOUNT_SECONDS} s: {self.tail()}")
            time.sleep(0.02)
        return 0, ""

    def mounted(self):
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            return any(line.split()[4] == str(self.mount) for line in mounts)

    def tail(self):
        return self.log.read_bytes()[-4000:].decode(errors="replace") if self.log.exists() else ""

    def show(self):
        """For a failure: whether the daemon still is there (-6: it aborted), and what it said last."""
        ended = self.process.poll() if self.process else None
        print(f"--- {self.name}: {'not ended' if ended is None else f'ended with {ended}'}, its log:\n{self.tail()}", flush=True)

    def kill(self):
        """kill -9, then what a supervisor would do: clear the dead mount point."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        subprocess.run(["umount", "-l", self.mount], check=False, stderr=subprocess.DEVNULL)

    def stop(self, timeout=60):
        """SIGTERM: drains and unmounts. Returns the exit code."""
        if self.process is None or self.process.poll() is not None:
            return None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def abandon(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for _ in range(3):
            if not self.mounted():
                break
            subprocess.run(["umount", "-l", self.mount], check=False, stderr=subprocess.DEVNULL)

    def run(self, *arguments, check=True, timeout=120):
        run = subprocess.run([MERIDIAN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             timeout=timeout, stdin=subprocess.DEVNULL)
        if check and run.returncode:
            raise AssertionError(f"meridian {' '.join(map(str, arguments))}: {run.returncode}: {run.stderr}")
        return run

    def status(self):
        return json.loads(self.run("status", str(self.config), "--json").stdout)

    def status_text(self):
        return self.run("status", str(self.config)).stdout

    def ask(self, *words):
        """The daemon's answer on its control socket: quicker than a program, for what does not last."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(self.state / "control"))
            sock.sendall((" ".join(words) + "\n").encode())
            with sock.makefile(encoding="utf-8") as lines:
                answer = []
                for line in lines:
                    if line.startswith("= "):
                        answer.append(line[2:])
                    elif line == "ok\n":
                        return "".join(answer)
        raise AssertionError(f"{self.name} does not answer: {words}")

    def region(self, name):
        return next(r for r in self.status()["regions"] if r["name"] == name)

    def backlog(self):
        """Rows not yet sealed or not yet in every region."""
        status = self.status()
        return status["journal_rows"] + sum(r["backlog_rows"] for r in status["regions"])

    def flush(self, timeout=120):
        self.run("flush", "--wait", str(self.mount), timeout=timeout)

    def resident_kib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")


class World:
    """A temporary directory with servers; cleans up on exit."""
    open = []  # all that are not closed yet

    def __init__(self, seed=None):
        need_fuse()
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="meridian-test."))
        self.seed = seed if seed is not None else int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 31)))
        self.random = random.Random(self.seed)
        self.servers = []
        self.tmpfs = []
        self.clusters = []
        World.open.append(self)
        print(f"seed {self.seed} (SEED={self.seed} repeats), directory {self.dir}", flush=True)
        atexit.register(self.close)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def server(self, name, regions, **options):
        server = Server(self, name, regions, **options)
        self.servers.append(server)
        return server

    def directories(self, *names):
        """file:// regions."""
        regions = {}
        for name in names:
            path = self.dir / "buckets" / name
            path.mkdir(parents=True, exist_ok=True)
            regions[name] = {"url": f"file://{path}"}
        return regions

    def mount_tmpfs(self, name, size):
        path = self.dir / name
        path.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=False).returncode:
            skip("cannot mount a tmpfs (not root?)")
        self.tmpfs.append(path)
        return path

    def close(self):
        for server in self.servers:
            if sys.exc_info()[0] or os.environ.get("VERBOSE"):
                server.show()
            server.abandon()
        for path in self.tmpfs:
            subprocess.run(["umount", "-l", path], check=False)
        for cluster in self.clusters:
            cluster.stop()
        self.servers, self.tmpfs, self.clusters = [], [], []
        if self in World.open:
            World.open.remove(self)
        if self.dir.exists() and not os.environ.get("KEEP_DIR"):
            shutil.rmtree(self.dir, ignore_errors=True)


def differences(a, b, content=True):
    """What `rsync -ani --checksum --delete` would change to make b equal a: content, mode, owner, mtime, symlinks."""
    run = subprocess.run(["rsync", "-ani", *(["--checksum"] if content else []), "--delete", f"{a}/", f"{b}/"], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, check=False)
    if run.returncode:
        return f"rsync: {run.stdout[-2000:]}"
    return run.stdout


def names(root):
    """All paths below root; cheap, to wait with."""
    found = set()
    for directory, directories, files in os.walk(root):
        relative = os.path.relpath(directory, root)
        found.update(os.path.join(relative, name) for name in directories + files)
    return found


def converge(*servers, timeout=120):
    """Flushes every server, then waits until all mounts show the same tree."""
    for server in servers:
        server.flush(timeout)
    first = servers[0]

    def same():
        for other in servers[1:]:
            if names(first.mount) != names(other.mount):
                return False
            # All content is read only when nothing else differs.
            if differences(first.mount, other.mount, content=False) or differences(first.mount, other.mount):
                return False
        return True

    def text():
        return "\n".join(["the same tree on " + ", ".join(s.name for s in servers),
                          *(f"{s.name}:\n{differences(first.mount, s.mount)[:3000]}{s.status_text()}\n{s.tail()}" for s in servers)])

    wait_until(text, same, timeout, 0.3)


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def objects(client, bucket):
    """SHA-256 of every object of the volume's files in a bucket, by its path."""
    def read(key):
        h = hashlib.sha256()
        for piece in client.get_object(Bucket=bucket, Key="app/" + key)["Body"].iter_chunks(1 << 20):
            h.update(piece)
        return h.hexdigest()

    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="app/")
    keys = [item["Key"][len("app/"):] for page in pages for item in page.get("Contents", [])]
    return {key: read(key) for key in keys if not key.startswith(".meridian/") and not key.endswith("/")}


def write_large(random, path, size):
    """No two blocks of 1 MiB are the same."""
    block = random.randbytes(1 << 20)
    with open(path, "wb") as file:
        for i in range(size >> 20):
            file.write(i.to_bytes(8, "little") + block[8:])


class Pair(unittest.TestCase):
    """For tests of two servers, a and b, each at home in one of two regions on Ceph gateways. A class that wants more sets
    VOLUME, or makes the servers itself (make), and does in setUpClass what is to be there for all its tests."""
    VOLUME = {}

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.ceph = Ceph(cls.world, gateways=2)
        cls.regions = {f"region-{n}": cls.ceph.region(n) for n in (1, 2)}
        cls.make()
        cls.a.start()
        cls.b.start()

    @classmethod
    def make(cls):
        cls.a = cls.world.server("a", cls.regions, home="region-1", volume=cls.VOLUME)
        cls.b = cls.world.server("b", cls.regions, home="region-2", volume=cls.VOLUME)

    @classmethod
    def tearDownClass(cls):
        try:
            assert cls.a.stop() == 0, cls.a.tail()
            assert cls.b.stop() == 0, cls.b.tail()
        finally:
            cls.world.close()


class Result(unittest.TextTestResult):
    """Shows the daemons of a test that fails: it does so before the test's own cleaning up."""

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.show_servers()

    def addError(self, test, err):
        super().addError(test, err)
        self.show_servers()

    def show_servers(self):
        for world in World.open:
            for server in world.servers:
                server.show()


class Runner(unittest.TextTestRunner):
    resultclass = Result


def main():
    unittest.main(verbosity=2, testRunner=Runner)
