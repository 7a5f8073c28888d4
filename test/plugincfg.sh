#!/usr/bin/env bash
# Builds CoreDNS with its whole list of plugins and alias, the way that the README shows, and tries the result.
set -euo pipefail
alias_dir=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; chmod -R u+w "$work"; rm -rf "$work"' EXIT

# A checkout of CoreDNS, of the version that alias is made for.
version=$(cd "$alias_dir" && go list -m -f '{{.Version}}' github.com/coredns/coredns)
source=$(cd "$work" && go mod download -json "github.com/coredns/coredns@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
cp -r "$source" "$work/coredns"
chmod -R u+w "$work/coredns"
cd "$work/coredns"

sed -i '/^transfer:transfer$/a alias:github.com/coredns/alias' plugin.cfg
go mod edit -replace "github.com/coredns/alias=$alias_dir"
go get github.com/coredns/alias@v0.0.0
go generate
go build -o coredns .

./coredns -plugins | grep -x alias
./coredns -plugins | grep -x kubernetes

# A port that is free now; should somebody take it, the server says so.
port=$((20000 + RANDOM % 20000))
cp -r "$alias_dir/examples" examples
sed -i "s/\b1053\b/$port/g" examples/Corefile
./coredns -conf examples/Corefile &
server=$!
for _ in $(seq 50); do
	answer=$(dig @127.0.0.1 -p "$port" +short +tries=1 +time=1 example.com A || true)
	[ "$answer" != $'203.0.113.80\n203.0.113.81' ] || { echo "$answer"; exit 0; }
	sleep 0.1
done
echo "no answer from the built server, but: $answer"
exit 1
