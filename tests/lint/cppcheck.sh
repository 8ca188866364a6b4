#!/bin/bash
# cppcheck over the program's own folders. It does not know the cleanup attribute: leaks are the sanitizers' business.
set -eu
cd "$1"
cppcheck --quiet --std=c17 --enable=warning,portability --inline-suppr --error-exitcode=1 -j2 \
	--suppress=missingIncludeSystem --suppress=unknownMacro --suppress=memleak -D_GNU_SOURCE -I. src cache replicator fs
echo "cppcheck found nothing"
