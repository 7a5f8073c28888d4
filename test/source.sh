#!/usr/bin/env bash
# Prints where the source of a module is, which is downloaded if need be: source.sh MODULE@VERSION
set -euo pipefail
cd / # where no go.mod says otherwise
go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'
