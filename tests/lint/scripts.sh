#!/bin/bash
# Runs shellcheck over every shell script of the project.
set -eu
cd "$1"
mapfile -t scripts < <(git ls-files 2>/dev/null | while read -r f; do
	head -c 40 "$f" | grep -aqE '^#!/bin/(ba)?sh' && echo "$f"
done)
if [ ${#scripts[@]} = 0 ]; then
	echo "not a git checkout: nothing listed to check"
	exit 77
fi
shellcheck -S warning "${scripts[@]}"
echo "${#scripts[@]} scripts checked"
