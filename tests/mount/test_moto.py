"""Uploads in parts, and parts that are copied inside the store, on a store with S3's newest conditions, between two servers."""
import subprocess
import time
import unittest

from harness import SERVERS, World, digest, main, objects, wait_until, write_large

MIB = 1 << 20


class Moto(unittest.TestCase):
    def test_parts(self):
        world = World()
        self.addCleanup(world.close)
        started = time.monotonic()
        directory = world.dir / "moto"
        run = subprocess.run([SERVERS / "moto", "start", directory], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if run.returncode == 77:
            self.skipTest(run.stdout.strip())
        self.assertEqual(run.returncode, 0, run.stdout)
        self.addCleanup(subprocess.run, [SERVERS / "moto", "stop", directory], check=False)
        buckets = ["region-1", "region-2"]
        subprocess.run([SERVERS / "moto", "bucket", directory, *buckets], check=True, stdout=subprocess.DEVNULL)
        env = dict(line.split("=", 1) for line in (directory / "env").read_text().splitlines())
        credentials = directory / "credentials"
        credentials.write_text("[default]\naws_access_key_id = TESTKEY\naws_secret_access_key = TESTSECRET\n")
        regions = {name: {"url": f"s3://{name}/app", "endpoint": env["S3_ENDPOINT_1"], "credentials_file": credentials, "region": "us-east-1"}
                   for name in buckets}
        a = world.server("moto-a", regions, home="region-1")
        b = world.server("moto-b", regions, home="region-2")
        a.start()
        b.start()
        import boto3
        from botocore.config import Config
        client = boto3.client("s3", endpoint_url=env["S3_ENDPOINT_1"], region_name="us-east-1", aws_access_key_id="TESTKEY",
                              aws_secret_access_key="TESTSECRET", config=Config(s3={"addressing_style": "path"}, proxies={}))
        size = 80 * MIB

        def same(parts):
            a.flush()
            want = digest(a.mount / "large")
            wait_until(lambda: f"the same file\n{b.status_text()}\n{b.tail()}",
                       lambda: (b.mount / "large").exists() and digest(b.mount / "large") == want, 60, 0.3)
            for bucket in buckets:
                self.assertEqual(objects(client, bucket), {"large": want})
                etag = client.head_object(Bucket=bucket, Key="app/large")["ETag"]
                self.assertRegex(etag, "-[0-9]+\"$" if parts is None else f"-{parts}\"$")
                self.assertEqual(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []), [])

        write_large(world.random, a.mount / "large", size)
        same(5)
        before = a.status()["counters"]
        with open(a.mount / "large", "r+b") as file:
            file.seek(30000123)
            file.write(world.random.randbytes(MIB))
        same(None)
        after = a.status()["counters"]
        sent, copied = ((after[k] - before[k]) / 2 / MIB for k in ("bytes_sent_total", "bytes_copied_total"))
        print(f"1 MiB changed in {size // MIB} MiB: {sent:.1f} MiB sent and {copied:.1f} MiB copied a region, {time.monotonic() - started:.1f} s")
        self.assertLess(sent, 17)
        self.assertGreater(copied, 60)
        # The other server changes what it got, in its turn.
        with open(b.mount / "large", "r+b") as file:
            file.seek(70 * MIB)
            file.write(b"from b")
        b.flush()
        want = digest(b.mount / "large")
        wait_until("the change comes back", lambda: digest(a.mount / "large") == want, 60, 0.3)
        for bucket in buckets:
            self.assertEqual(objects(client, bucket), {"large": want})


if __name__ == "__main__":
    main()
