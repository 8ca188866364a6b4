"""Disturbs each system call of subject in turn (see inject.c) and checks what is there afterwards.

    every_call.py SUBJECT INJECT.SO MODE [STEP]

enospc, eio, short: the program goes on; what it was told succeeded is there, what it was told failed did not half happen.
kill: after a restart everything that had returned is there. powercut: everything up to the last fsync is there, and nothing is torn."""
import os
import shutil
import subprocess
import sys
import tempfile

SUBJECT, INJECT, MODE = sys.argv[1:4]
STEP = int(sys.argv[4]) if len(sys.argv) > 4 else 1


def run(verb, state, mode=None, at=0, count=None, boot=None):
    env = dict(os.environ)
    if boot:
        env.update(SUBJECT_BOOT=boot)
    if mode:
        env.update(LD_PRELOAD=INJECT, FAULT_DIR=os.path.dirname(state), FAULT_MODE=mode, FAULT_AT=str(at), FAULT_COUNT=count or "")
    return subprocess.run([SUBJECT, verb, state], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)


def apply(tree, words):
    """The tree after one operation."""
    tree = dict(tree)
    if words[0] == "mkdir":
        tree[words[1]] = "dir"
    elif words[0] == "put":
        tree[words[1]] = (int(words[3]), words[2])
    elif words[0] == "rename":
        for path in list(tree):
            if path == words[1] or path.startswith(words[1] + "/"):
                tree[words[2] + path[len(words[1]):]] = tree.pop(path)
    elif words[0] == "unlink":
        tree.pop(words[1], None)
    return tree


def listed(output):
    tree = {}
    for line in output.splitlines():
        words = line.split()
        if words[0] == "dir":
            tree[words[1]] = "dir"
        elif words[0] == "file":
            tree[words[1]] = (int(words[2]), words[3])
        elif words[0] == "unreadable":
            tree[words[1]] = "unreadable"
    return tree


def history(output):
    """[(words, outcome)]: outcome ok, failed or none (cut short)."""
    operations = []
    for line in output.splitlines():
        words = line.split()
        if words and words[0] == "try":
            operations.append([words[1:], None])
        elif words and words[0] in ("ok", "failed") and operations:
            operations[-1][1] = words[0]
    return operations


def acceptable(operations, found):
    """Compares found with the model; a failed or cut-short put may have left a prefix, and a cut-short operation may have happened."""
    trees = [{}]
    loose = set()
    for words, outcome in operations:
        if outcome == "ok":
            trees = [apply(t, words) for t in trees]
            if words[0] == "put":
                loose.discard(words[1])
            if words[0] == "rename":
                loose = {words[2] + p[len(words[1]):] if p == words[1] or p.startswith(words[1] + "/") else p for p in loose}
        else:
            if words[0] == "put":
                loose.add(words[1])
                loose.update(words[1:2])
            elif outcome is None:
                trees = trees + [apply(t, words) for t in trees]
    strict = {p: v for p, v in found.items() if p not in loose}
    return any({p: v for p, v in t.items() if p not in loose} == strict for t in trees)


def durable(operations, found):
    """After a power cut: each file as of its last fsync that returned is there under its name, or newer; nothing is torn."""
    after_sync = 0
    for n, (words, outcome) in enumerate(operations):
        if words[0] == "put" and words[4] == "1" and outcome == "ok":
            after_sync = n + 1
    synced = {}
    for words, outcome in operations[:after_sync]:
        if outcome != "ok":
            continue
        if words[0] == "put":
            if words[4] == "1":
                synced[words[1]] = (int(words[3]), words[2])
            else:
                synced.pop(words[1], None)
        elif words[0] == "rename":
            # an unflushed file that is renamed over a flushed one takes its place as it is
            synced.pop(words[2], None)
            synced = apply(synced, words)
        elif words[0] == "unlink":
            synced.pop(words[1], None)
    later = operations[after_sync:]
    for path, value in synced.items():
        allowed = [(path, value)]
        for words, _ in later:
            if words[0] == "rename":
                allowed += [(words[2] + p[len(words[1]):], v) for p, v in allowed if p == words[1] or p.startswith(words[1] + "/")]
            if words[0] in ("put", "unlink") and words[1] in [p for p, _ in allowed]:
                allowed = None
                break
            if words[0] == "rename" and words[2] in [p for p, _ in allowed] and words[1] not in [p for p, _ in allowed]:
                allowed = None
                break
        if allowed is None:
            continue
        if not any(found.get(p) == v for p, v in allowed):
            return f"{path} was flushed as {value}; found {found}"
    # they were sealed once, and what was renamed over them was not flushed: never an empty file
    for path in ("e/one", "e/four"):
        if found.get(path) == (0, "-"):
            return f"{path} is empty, and would be replicated so"
    return None


def main():
    top = tempfile.mkdtemp(prefix="meridian-fault.", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    try:
        clean = run("run", os.path.join(top, "state"), "count", count=os.path.join(top, "count"))
        if clean.returncode:
            sys.exit(f"undisturbed run failed: {clean.stdout}")
        with open(os.path.join(top, "count"), encoding="utf-8") as file:
            total = int(file.read())
        if total < 50:
            sys.exit(f"only {total} calls counted: is the library loaded?")
        found = listed(run("list", os.path.join(top, "state")).stdout)
        if not acceptable(history(clean.stdout), found) or len(found) < 5:
            sys.exit(f"undisturbed run is wrong already: {found}")
        tested = wrong = 0
        for at in range(1, total + 1, STEP):
            shutil.rmtree(os.path.join(top, "state"), ignore_errors=True)
            outcome = run("run", os.path.join(top, "state"), MODE, at)
            if MODE in ("kill", "powercut") and outcome.returncode != 86:
                sys.exit(f"call {at}: was not cut: {outcome.returncode} {outcome.stdout}")
            if outcome.returncode not in (0, 3, 4, 86):
                print(f"call {at}: ended with {outcome.returncode}: {outcome.stdout[-500:]}")
                wrong += 1
                continue
            tested += 1
            after = run("list", os.path.join(top, "state"), boot="after the cut" if MODE == "powercut" else None)
            if after.returncode:
                print(f"call {at}: cannot be opened afterwards: {after.stdout[-500:]}")
                wrong += 1
                continue
            operations, found = history(outcome.stdout), listed(after.stdout)
            if MODE == "powercut":
                problem = durable(operations, found)
            else:
                problem = None if acceptable(operations, found) else "the tree is not what was acknowledged"
            if problem:
                print(f"call {at}: {problem}\n  operations {operations}\n  found {found}")
                wrong += 1
        print(f"{MODE}: {tested} of {total} calls disturbed, {wrong} wrong")
        return bool(wrong) or tested == 0
    finally:
        shutil.rmtree(top, ignore_errors=True)


sys.exit(main())
