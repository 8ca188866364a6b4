"""The network between servers and regions fails: connections are reset, closed and stall at every byte, a gateway throttles, certificates are
wrong, handshakes are cut. All converges, nothing is lost, nothing is there twice, nothing goes out in clear.

BOUNDARIES=all takes every byte of every exchange (minutes); PART=bad_line one part of the first test."""
import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import re
import ssl
import subprocess
import sys
import threading
import time
import unittest
from random import Random

from harness import SERVERS, Ceph, World, converge, digest, main, objects, wait_until, write_large
from proxy import Controlled, Fault, Proxy

MIB = 1 << 20
BOUNDARIES = os.environ.get("BOUNDARIES_PROGRAM", "boundaries")
MODE = os.environ.get("BOUNDARIES", "sample")


def digests(root):
    """SHA-256 of every file below root, by its path."""
    return {str(p.relative_to(root)): digest(p) for p in sorted(pathlib.Path(root).rglob("*")) if p.is_file()}


def openssl(directory, *arguments):
    subprocess.run(["openssl", *map(str, arguments)], cwd=directory, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Authority:
    """Makes certificates for 127.0.0.1 and others, good and bad ones."""

    def __init__(self, directory):
        self.dir = directory
        directory.mkdir()
        openssl(directory, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 30, "-subj", "/CN=test authority", "-keyout", "ca.key",
                "-out", "ca.pem")
        (directory / "index").write_text("")
        (directory / "serial").write_text("01\n")
        (directory / "conf").write_text(
            "[ca]\ndefault_ca = c\n[c]\ndir = .\nnew_certs_dir = .\ndatabase = index\nserial = serial\ndefault_md = sha256\npolicy = p\n"
            "copy_extensions = copy\nunique_subject = no\n[p]\ncommonName = supplied\n")
        self.bundle = directory / "ca.pem"

    def context(self, name, subject="IP:127.0.0.1", start="20200101000000Z", end="20380101000000Z"):
        """What a server with such a certificate serves with."""
        openssl(self.dir, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}", "-keyout",
                f"{name}.key", "-out", f"{name}.csr")
        openssl(self.dir, "ca", "-batch", "-config", "conf", "-cert", "ca.pem", "-keyfile", "ca.key", "-startdate", start, "-enddate", end,
                "-in", f"{name}.csr", "-out", f"{name}.pem", "-notext")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.dir / f"{name}.pem", self.dir / f"{name}.key")
        return context


class TlsFront:
    """A TLS server before a gateway on a port that stays, with a certificate that can be changed; records what clients send."""

    def __init__(self, port, context):
        self.gateway = port
        self.inner = Proxy("127.0.0.1", port, tls=context)
        self.outer = Proxy("127.0.0.1", self.inner.port, record=True)
        self.endpoint = f"https://127.0.0.1:{self.outer.port}"

    def change(self, context, schedule=None):
        old, self.inner = self.inner, Proxy("127.0.0.1", self.gateway, tls=context)
        self.outer.target = ("127.0.0.1", self.inner.port)
        self.outer.schedule = schedule
        self.outer.drop()
        old.close()
        self.outer.recorded.clear()


class NetFault(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.ceph = Ceph(cls.world, gateways=2)
        cls.ports = [int(cls.ceph.env()[f"S3_ENDPOINT_{n}"].rsplit(":", 1)[1]) for n in (1, 2)]

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def setUp(self):
        self.started = time.monotonic()

    def tearDown(self):
        print(f"{time.monotonic() - self.started:.1f} s", flush=True)
        for server in self.world.servers:
            server.abandon()

    def volume(self, name):
        """Two new buckets, for a volume of a test's own."""
        buckets = [f"{name}-{n}" for n in (1, 2)]
        subprocess.run([SERVERS / "ceph", "bucket", self.ceph.dir, *buckets], check=True)
        regions = {f"region-{n}": {**self.ceph.region(n), "url": f"s3://{buckets[n - 1]}/app", "stall_timeout": "1s"} for n in (1, 2)}
        return buckets, regions

    def boundaries(self, only, endpoint_port, authority=None):
        controlled = Controlled("127.0.0.1", endpoint_port)
        buckets, _ = self.volume(f"boundaries-{'tls' if authority else 'plain'}")
        env = {**os.environ, "CONTRACT_URL": f"s3://{buckets[0]}/x", "CONTRACT_ENDPOINT": self.ceph.env()["S3_ENDPOINT_1"],
               "CONTRACT_CREDENTIALS": str(self.ceph.credentials)}
        if only:
            env["BOUNDARIES_ONLY"] = only
        if authority:
            env["BOUNDARIES_CA"] = str(authority.bundle)
        run = subprocess.run([BOUNDARIES, str(controlled.port), MODE], env=env, check=False, timeout=800)
        controlled.close()
        self.assertEqual(run.returncode, 0)

    def test_1_faults(self):
        """All at once, each with buckets of its own: they mostly wait."""
        def run(part):
            began = time.monotonic()
            part()
            print(f"{part.__name__}: {time.monotonic() - began:.1f} s")

        only = os.environ.get("PART")
        parts = [p for p in (self.every_byte, self.handshakes, self.bad_line, self.certificates) if only in (None, p.__name__)]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for future in [pool.submit(run, part) for part in parts]:
                future.result()

    def every_byte(self):
        self.boundaries(None, self.ports[0])

    def handshakes(self):
        authority = Authority(self.world.dir / "authority-2")
        front = TlsFront(self.ports[0], authority.context("right"))
        self.boundaries("put", front.inner.port, authority)

    def bad_line(self):
        """Every other connection breaks or stalls somewhere."""
        random, on = Random(self.world.seed), threading.Event()
        on.set()

        def schedule(_):
            if not on.is_set() or random.random() < 0.4:
                return []
            after = random.randrange(2000) if random.random() < 0.7 else random.randrange(24 * MIB)
            return [Fault(random.choice(("request", "response")), random.choice(("reset", "close", "stall")), after)]

        proxies = [Proxy("127.0.0.1", port, schedule=schedule) for port in self.ports]
        buckets, regions = self.volume("bad-line")
        for n, proxy in enumerate(proxies):
            regions[f"region-{n + 1}"]["endpoint"] = proxy.endpoint
        volume = {"first_sync_timeout": "2s", "lazy_min": "1M", "drain_timeout": "10s"}
        a = self.world.server("line-a", regions, home="region-1", volume=volume)
        b = self.world.server("line-b", regions, home="region-2", volume=volume)
        a.start()
        b.start()
        write_large(random, a.mount / "large", 66 * MIB)
        write_large(random, a.mount / "lazy", 5 * MIB)
        for n in range(120):
            server = (a, b)[n % 2]
            directory = server.mount / f"d{n % 6}{server.name}"
            directory.mkdir(exist_ok=True)
            path = directory / f"f{n}"
            path.write_bytes(random.randbytes(random.randrange(1, 3000)))
            if n % 10 == 8:
                path.write_bytes(random.randbytes(100))
            if n % 15 == 7:
                os.rename(path, directory / f"renamed{n}")
            if n % 20 == 3:
                os.unlink(path)
        def all_struck():
            return all(any(p.struck[action] for p in proxies) for action in ("reset", "close", "stall"))

        end = time.monotonic() + 5
        while time.monotonic() < end or (not all_struck() and time.monotonic() < end + 60):
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                with open(b.mount / "lazy", "rb") as file:
                    file.seek(random.randrange(4 * MIB))
                    file.read(4096)
        struck = sum((p.struck for p in proxies), start=proxies[0].struck.__class__())
        print(f"struck: {dict(struck)} of {sum(p.connections for p in proxies)} connections")
        self.assertTrue(all(struck[action] for action in ("reset", "close", "stall")), struck)
        on.clear()
        converge(a, b, timeout=300)
        want = digests(a.mount)
        self.assertEqual(len(want), 2 + 120 - 6)
        self.assertEqual(digests(b.mount), want)
        for n in (1, 2):
            client = self.ceph.client(n)
            self.assertEqual(objects(client, buckets[n - 1]), want, f"bucket {n}")
            # Beginnings that were not answered, which go after a week, those of a probe that was cut off after an hour.
            for upload in client.list_multipart_uploads(Bucket=buckets[n - 1]).get("Uploads", []):
                if "/.meridian/probe/" in upload["Key"]:
                    continue
                parts = client.list_parts(Bucket=buckets[n - 1], Key=upload["Key"], UploadId=upload["UploadId"])
                self.assertEqual(parts.get("Parts", []), [], upload)
        for server in (a, b):
            status = server.status()
            self.assertEqual(status["conflicts"], 0)
            self.assertEqual([r["backlog_parked"] for r in status["regions"]], [0, 0])

    def certificates(self):
        """A server with one region for each thing that can be wrong."""
        authority, stranger = Authority(self.world.dir / "authority"), Authority(self.world.dir / "stranger")
        right = authority.context("right")
        wrong = {
            "expired": (authority.context("expired", end="20210101000000Z"), "expired"),
            "host": (authority.context("host", subject="DNS:elsewhere.example"), "subject name"),
            "unknown": (stranger.context("unknown"), "certificate"),
            "cut": (right, "."),
        }
        cut = [Fault("response", "reset", n) for n in (0, 1, 5, 100, 700)] + [Fault("request", "stall", 60)]
        regions, fronts = self.world.directories("home"), {}
        buckets = {name: f"tls-{name}" for name in wrong}
        subprocess.run([SERVERS / "ceph", "bucket", self.ceph.dir, *buckets.values()], check=True)
        for name in wrong:
            fronts[name] = TlsFront(self.ports[0], right)
            regions[name] = {**self.ceph.region(1), "url": f"s3://{buckets[name]}/app", "endpoint": fronts[name].endpoint,
                             "ca_bundle": authority.bundle, "stall_timeout": "1s"}
        server = self.world.server("tls", regions, home="home")
        server.start()
        (server.mount / "before").write_text("before")
        server.flush()
        for name, (context, _) in wrong.items():
            fronts[name].change(context, (lambda n: [cut[n % len(cut)]]) if name == "cut" else None)
        (server.mount / "secret-name").write_text("secret content")

        def refused():
            found = {name: server.region(name) for name in wrong}
            return found if all(not r["up"] and r["retry_at_ms"] and r["backlog_rows"] and re.search(wrong[name][1], r["error"])
                                for name, r in found.items()) else None

        found = wait_until(lambda: f"each region is refused for its reason\n{server.status_text()}", refused, 90, 0.2)
        for name in wrong:
            print(f"{name}: {found[name]['error']}")
        # A new server does not even come up with it.
        new = self.world.server("tls-new", {"expired": regions["expired"]})
        code, text = new.start(check=False)
        self.assertNotEqual(code, 0)
        self.assertRegex(text, "certificate has expired")
        self.assertRegex(text, "hint: .*ca_bundle")
        for name, front in fronts.items():
            sent = bytes(front.outer.recorded)
            self.assertEqual(sent[:2], b"\x16\x03", name)  # a TLS handshake record
            for text in (b"HTTP/1", b"secret", b"AWS4", b"meridian", b"TESTKEY"):
                self.assertNotIn(text, sent, name)
            self.assertEqual(list(objects(self.ceph.client(1), buckets[name])), ["before"], name)
        for front in fronts.values():
            front.change(right)
        wait_until(lambda: f"it heals\n{server.status_text()}", lambda: server.backlog() == 0, 120, 0.2)
        for name in wrong:
            self.assertEqual(objects(self.ceph.client(1), buckets[name]), digests(server.mount), name)
            self.assertTrue(server.region(name)["up"])
            self.assertNotIn(b"secret", bytes(fronts[name].outer.recorded), name)

    def test_2_throttled(self):
        buckets, regions = self.volume("throttled")
        a = self.world.server("throttled", regions, home="region-1")
        os.environ["RGW_OPTS"] = "--rgw-max-concurrent-requests=2"
        try:
            self.ceph.kill(1)
            self.ceph.restart(1)
        finally:
            del os.environ["RGW_OPTS"]
        a.start()
        payload = {f"f{n}": self.world.random.randbytes(500) for n in range(500)}

        def write(part):
            for n in range(part, 500, 10):
                (a.mount / f"f{n}").write_bytes(payload[f"f{n}"])

        threads = [threading.Thread(target=write, args=(part,)) for part in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shown = wait_until(lambda: f"the status says so\n{a.status_text()}", lambda: a.region("region-1").get("throttled_total") and a.region("region-1"),
                           60, 0.1)
        lowest = shown["connections_allowed"]
        while a.backlog():
            region = a.region("region-1")
            lowest = min(lowest, region["connections_allowed"])
            if os.environ.get("VERBOSE"):
                print(f"{time.monotonic() - self.started:.1f} s: {region['backlog_rows']} left, {region['throttled_total']} throttled, "
                      f"{region['connections_allowed']} connections, up {region['up']} {region['error'][:60]}")
            self.assertEqual(region["backlog_parked"], 0)
            self.assertLess(time.monotonic() - self.started, 150, a.status_text())
            time.sleep(0.1)
        region, other = a.region("region-1"), a.region("region-2")
        counters = a.status()["counters"]
        print(f"{region['throttled_total']} throttled, at least {lowest} connections, {counters['store_retries_total']} repeats, "
              f"{counters['store_errors_total']} errors")
        self.assertLessEqual(lowest, 8)
        self.assertEqual(other["connections_allowed"], other["connections"])
        self.assertLess(region["throttled_total"], 500)
        want = {name: hashlib.sha256(data).hexdigest() for name, data in payload.items()}
        for n in (1, 2):
            self.assertEqual(objects(self.ceph.client(2), buckets[n - 1]), want, f"bucket {n}")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    main()
