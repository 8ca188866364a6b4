"""What the tests of real programs share: one mounted volume for a class, a directory in it for each test."""
import os
import pathlib
import shutil
import subprocess
import unittest

from harness import World, differences

ROOT = os.geteuid() == 0


def need(*programs):
    """Skips the test unless each program is there."""
    for program in programs:
        if not shutil.which(program):
            raise unittest.SkipTest(f"{program} is not installed")


def need_root():
    if not ROOT:
        raise unittest.SkipTest("needs root")


class Programs(unittest.TestCase):
    server_options = {}

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.world.dir.chmod(0o755)  # other users go through it
        cls.regions = cls.world.directories("east")
        cls.bucket = cls.world.dir / "buckets" / "east"
        cls.a = cls.world.server("a", cls.regions, **cls.server_options)
        cls.a.start(options=("-o", "dev"))

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def setUp(self):
        name = self.id().rsplit(".", 1)[1]
        self.dir = self.a.mount / name
        self.dir.mkdir()
        self.native = self.world.dir / "native" / name
        self.native.mkdir(parents=True)

    def run_it(self, *arguments, timeout=300, code=0, **options):
        """Runs a program; fails with what it said unless it ends with code. Returns what it said."""
        options.setdefault("cwd", self.dir)
        options.setdefault("stdin", subprocess.DEVNULL)
        run = subprocess.run([str(a) for a in arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             errors="backslashreplace", timeout=timeout, check=False, **options)
        if code is not None and run.returncode != code:
            self.fail(f"{' '.join(map(str, arguments))}: {run.returncode}\n{run.stdout[-6000:]}")
        return run.stdout

    def assert_in_bucket(self, directory):
        """Every file below directory is in the bucket with the same content, and no other."""
        self.a.flush()
        path = pathlib.Path(directory).relative_to(self.a.mount)
        run = subprocess.run(["rsync", "-rlni", "--checksum", "--delete", f"{directory}/", f"{self.bucket / path}/"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        changed = [line for line in run.stdout.splitlines() if not line.startswith("skipping non-regular")]
        # Directories and symbolic links are objects of their own form.
        changed = [line for line in changed if line[1:2] == "f" or line.startswith("*deleting") and not line.endswith("/")]
        self.assertEqual((run.returncode, changed), (0, []), run.stdout[-3000:])

    def assert_same(self, a, b):
        self.assertEqual((differences(a, b), differences(b, a)), ("", ""))
