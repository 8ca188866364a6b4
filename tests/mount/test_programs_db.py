"""Databases on a mount: PostgreSQL with a crash and its recovery, SQLite in WAL mode with two processes."""
import contextlib
import glob
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import time
import unittest

from harness import main, wait_until
from programs import Programs, need, need_root

PGBENCH_SECONDS = int(os.environ.get("PGBENCH_SECONDS", 30))


def sqlite_writer(path, number, transactions, seed):
    """Moves amounts between accounts; the sum stays."""
    rng = random.Random(seed)
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    db.execute("PRAGMA mmap_size = 16777216")
    db.execute("PRAGMA wal_autocheckpoint = 50")
    for _ in range(transactions):
        amount, a, b = rng.randrange(100), rng.randrange(200), rng.randrange(200)
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE account SET amount = amount - ? WHERE id = ?", (amount, a))
        db.execute("UPDATE account SET amount = amount + ? WHERE id = ?", (amount, b))
        db.execute("INSERT INTO history(writer, amount, pad) VALUES(?, ?, ?)", (number, amount, "x" * rng.randrange(400)))
        db.execute("COMMIT")
        if rng.random() < 0.05 and db.execute("SELECT sum(amount) FROM account").fetchone()[0] != 0:
            raise AssertionError("the sum changed")
    db.close()


class Databases(Programs):
    def postgres(self, *arguments, **options):
        return self.run_it("setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", *arguments,
                           cwd=self.native, **options)

    def query(self, text):
        return self.postgres(f"{self.bin}/psql", "-h", self.native, "-At", "-F", " ", "-c", text, "postgres").strip()

    def start(self):
        """As a child of ours, so that nothing is left of it when it was killed."""
        server = subprocess.Popen(["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", f"{self.bin}/postgres",
                                   "-D", self.data, "-k", self.native, "-c", "listen_addresses="], cwd=self.native,
                                  stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.addCleanup(self.end, server)

        def ready():
            if server.poll() is not None:
                raise AssertionError(f"PostgreSQL ended: {(self.native / 'log').read_text()[-3000:]}")
            return subprocess.run([f"{self.bin}/pg_isready", "-q", "-h", self.native], check=False).returncode == 0
        wait_until("PostgreSQL takes connections", ready, 60)
        return server

    @staticmethod
    def end(server):
        if server.poll() is None:
            server.send_signal(signal.SIGQUIT)
            server.wait(30)

    def bench(self, seconds):
        return subprocess.Popen(["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", f"{self.bin}/pgbench",
                                 "-n", "-h", self.native, "-c", "4", "-j", "2", "-T", str(seconds), "postgres"], cwd=self.native,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def check_sums(self):
        sums = [self.query(f"SELECT sum({column}) FROM pgbench_{table}") for column, table in
                (("abalance", "accounts"), ("tbalance", "tellers"), ("bbalance", "branches"), ("delta", "history"))]
        self.assertEqual(len(set(sums)), 1, sums)
        self.assertEqual(self.query("SELECT count(*) FROM pgbench_accounts"), "200000")

    def test_postgresql(self):
        need_root()
        need("setpriv")
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
        if not found:
            self.skipTest("PostgreSQL is not installed")
        self.bin = os.path.dirname(found[-1])
        self.data = self.dir / "data"
        self.log = open(self.native / "log", "ab")
        self.addCleanup(self.log.close)
        for path in (self.dir, self.native):
            subprocess.run(["chown", "postgres:postgres", path], check=True)
        self.postgres(f"{self.bin}/initdb", "-k", "-D", self.data)
        server = self.start()
        self.query("CREATE EXTENSION amcheck")
        self.postgres(f"{self.bin}/pgbench", "-q", "-i", "-s", "2", "-h", self.native, "postgres")
        # The postmaster dies in the middle; its processes end when they notice.
        bench = self.bench(PGBENCH_SECONDS + 120)
        time.sleep(min(PGBENCH_SECONDS / 2, 8))
        wait_until("it has work done", lambda: int(self.query("SELECT count(*) FROM pgbench_history")) > 100, 90)
        server.kill()
        server.wait()
        self.assertNotEqual(bench.wait(60), 0)
        bench.stdout.close()
        (self.data / "postmaster.pid").unlink()
        wait_until("the last of its processes ended", lambda: not self.still_running(), 30)
        server = self.start()
        self.assertIn("redo done", (self.native / "log").read_text())
        before = int(self.query("SELECT count(*) FROM pgbench_history"))
        self.assertGreater(before, 100)
        self.check_sums()
        bench = self.bench(PGBENCH_SECONDS)
        text = bench.communicate(timeout=120)[0]
        self.assertEqual(bench.returncode, 0, text)
        self.assertIn("number of failed transactions: 0", text)
        print([line for line in text.splitlines() if line.startswith("tps")])
        self.check_sums()
        self.postgres(f"{self.bin}/pg_amcheck", "-h", self.native, "--heapallindexed", "postgres")
        server.send_signal(signal.SIGINT)  # fast shutdown
        server.wait(60)
        self.assertIn("Bad checksums:  0", self.postgres(f"{self.bin}/pg_checksums", "-c", "-D", self.data))
        self.assert_in_bucket(self.dir)

    def still_running(self):
        for entry in glob.glob("/proc/[0-9]*/cwd"):
            try:
                if os.readlink(entry) == str(self.data):
                    return True
            except OSError:
                pass
        return False

    def test_sqlite(self):
        path = str(self.dir / "database")
        db = sqlite3.connect(path, isolation_level=None)
        self.assertEqual(db.execute("PRAGMA journal_mode = WAL").fetchone()[0], "wal")
        db.execute("PRAGMA mmap_size = 16777216")
        db.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER)")
        db.execute("CREATE TABLE history(id INTEGER PRIMARY KEY, writer, amount, pad)")
        db.execute("CREATE INDEX history_amount ON history(amount, pad)")
        db.executemany("INSERT INTO account VALUES(?, 0)", [(n,) for n in range(200)])
        writers = [multiprocessing.Process(target=sqlite_writer, args=(path, n, 1500, self.world.seed + n)) for n in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(120)
            self.assertEqual(writer.exitcode, 0)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchone()[0], "ok")
        self.assertEqual(db.execute("SELECT sum(amount) FROM account").fetchone()[0], 0)
        self.assertEqual(db.execute("SELECT writer, count(*) FROM history GROUP BY 1").fetchall(), [(0, 1500), (1, 1500)])
        db.close()
        # A writer that is killed leaves its log; the next one recovers.
        writer = multiprocessing.Process(target=sqlite_writer, args=(path, 2, 1000000, 1))
        writer.start()
        def written():
            with contextlib.closing(sqlite3.connect(path, timeout=60)) as reader:
                return reader.execute("SELECT count(*) FROM history WHERE writer = 2").fetchone()[0] > 10

        wait_until("it has written", written, 60)
        writer.kill()
        writer.join()
        # The daemon, too, with the log still to be taken over.
        self.a.kill()
        self.a.start(options=("-o", "dev"))
        db = sqlite3.connect(path)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchone()[0], "ok")
        self.assertEqual(db.execute("SELECT sum(amount) FROM account").fetchone()[0], 0)
        self.assertGreater(db.execute("SELECT count(*) FROM history WHERE writer = 2").fetchone()[0], 10)
        db.close()
        self.assert_in_bucket(self.dir)


if __name__ == "__main__":
    main()
