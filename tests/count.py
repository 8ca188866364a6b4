"""Counts the results in a meson test log: "PASSED FAILED SKIPPED", then a line for each skipped or failed test."""
import json
import sys

passed = failed = skipped = 0
notes = []
with open(sys.argv[1], encoding="utf-8") as log:
    for line in log:
        test = json.loads(line)
        result = test["result"]
        if result in ("OK", "EXPECTEDFAIL"):
            passed += 1
        elif result == "SKIP":
            skipped += 1
            output = (test.get("stdout") or "") + (test.get("stderr") or "")
            reason = output.strip().splitlines()[-1:] or ["no reason printed"]
            notes.append(f"skipped: {test['name']}: {reason[0]}")
        else:
            failed += 1
            notes.append(f"FAILED: {test['name']}: {result}")
if passed + failed + skipped == 0:
    sys.exit("no test ran")
print(passed, failed, skipped)
print("\n".join(notes))
