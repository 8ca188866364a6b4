"""Random operations against a model: on one file (file_model.c) and on a tree (tree_model.c), a million each, with
remounts and kills of the daemon in between, with passthrough and without; afterwards a second server has to show the same."""
import os
import subprocess
import unittest

from harness import World, main, skip, wait_until

ROUNDS = int(os.environ.get("MODEL_ROUNDS", 10))
OPERATIONS = int(os.environ.get("MODEL_OPERATIONS", 101000))  # in each round
FILE_MODEL = os.environ["FILE_MODEL"]
TREE_MODEL = os.environ["TREE_MODEL"]
FILE_NEEDS = ("punch", "zero", "direct", "copy")
TREE_NEEDS = ("link", "exchange", "special", "acl")


class Models(unittest.TestCase):
    def setUp(self):
        self.world = World()
        regions = self.world.directories("east")
        self.a = self.world.server("a", regions)
        self.b = self.world.server("b", regions)
        self.b.start()
        self.processors = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, self.processors)
        self.one = {self.world.random.choice(sorted(self.processors))}
        self.place(0)
        self.a.start(options=("-o", "dev"))

    def place(self, round_number):
        """Four rounds of five have the model and its daemon on one processor: what each call costs otherwise is mostly that the
        other processor has to be woken."""
        os.sched_setaffinity(0, self.processors if round_number % 5 == 4 else self.one)

    def tearDown(self):
        self.world.close()

    def program(self, *arguments):
        run = subprocess.run([str(a) for a in arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             errors="backslashreplace", check=False)
        if run.returncode:
            self.fail(f"{' '.join(map(str, arguments))}: {run.returncode}\n{run.stdout[-12000:]}")
        return run.stdout

    def remount(self, round_number):
        """By turns: stopped in order, killed; every third time with nothing passed through. True when it was killed."""
        kill = round_number % 2 == 1
        if kill:
            self.a.kill()
        else:
            self.a.stop()
        self.place(round_number + 1)
        self.a.start(options=("-o", "dev" if round_number % 3 else "dev,passthrough=off"))
        return kill

    def test_file(self):
        path, state = self.a.mount / "file", self.world.dir / "model"
        for n in range(ROUNDS):
            print(self.program(FILE_MODEL, path, state, self.world.seed + n, OPERATIONS, *FILE_NEEDS), end="", flush=True)
            self.remount(n)
        self.assertEqual(path.read_bytes(), state.read_bytes())
        self.a.flush()

        def same():
            copy = self.b.mount / "file"
            return copy.exists() and copy.read_bytes() == state.read_bytes()
        wait_until("the second server has the file", same, 120)

    def model_directory(self):
        """On a file system that can be the model: with extended attributes of users."""
        path = self.world.dir / "model"
        path.mkdir()
        try:
            os.setxattr(path, "user.probe", b"x")
            os.removexattr(path, "user.probe")
        except OSError as error:
            skip(f"{path} is not on a file system that could be a model: {error}")
        return path

    def test_tree(self):
        if os.geteuid():
            skip("the tree's model changes owners: needs root")
        model, tree = self.model_directory(), self.a.mount / "tree"
        tree.mkdir()
        for n in range(ROUNDS):
            print(self.program(TREE_MODEL, "run", model, tree, self.world.seed + n, OPERATIONS, *TREE_NEEDS), end="", flush=True)
            if self.remount(n):
                self.program(TREE_MODEL, "settle", model, tree)
        self.program(TREE_MODEL, "compare", model, tree)
        self.a.flush()
        last = []

        def same():
            run = subprocess.run([TREE_MODEL, "compare", model, self.b.mount / "tree", "special", "dirtimes", "links"],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="backslashreplace",
                                 check=False)
            last[:] = [run.stdout]
            return run.returncode == 0
        wait_until(lambda: f"the second server has the tree: {last}\n{self.b.tail()}", same, 120, 1)


if __name__ == "__main__":
    main()
