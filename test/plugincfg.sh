#!/usr/bin/env bash
# Builds CoreDNS with its whole list of plugins and alias, the way that the README shows, and tries the result: with the
# example, and with a CNAME record at an apex that is in etcd.
set -euo pipefail
alias_dir=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
servers=()
trap '[ ${#servers[@]} -eq 0 ] || kill "${servers[@]}"; chmod -R u+w "$work"; rm -rf "$work"' EXIT

# A checkout of CoreDNS, of the version that alias is made for.
version=$(cd "$alias_dir" && go list -m -f '{{.Version}}' github.com/coredns/coredns)
cp -r "$("$alias_dir/test/source.sh" "github.com/coredns/coredns@$version")" "$work/coredns"
chmod -R u+w "$work/coredns"
cd "$work/coredns"

sed -i '/^transfer:transfer$/a alias:github.com/coredns/alias' plugin.cfg
# The same settings as in cluster/cluster.sh, and no paths in what is compiled: Go's build cache then serves both, wherever they build.
export CGO_ENABLED=0 GOFLAGS
GOFLAGS="$(go env GOFLAGS) -trimpath"
go mod edit -replace "github.com/coredns/alias=$alias_dir"
go get github.com/coredns/alias@v0.0.0
go generate
go build -o coredns .

./coredns -plugins | grep -x alias
./coredns -plugins | grep -x kubernetes

# answers waits until the server at a port has the addresses of the example.
answers() {
	for _ in $(seq 100); do
		answer=$(dig @127.0.0.1 -p "$1" +noall +answer +tries=1 +time=1 example.com A | tr -s '\t ' ' ' || true)
		[ "$answer" != $'example.com. 60 IN A 203.0.113.80\nexample.com. 60 IN A 203.0.113.81' ] || { echo "$answer"; return; }
		sleep 0.1
	done
	echo "no answer from the built server, but: $answer"
	exit 1
}

# Ports that are free now; should somebody take one, the server says so.
port=$((20000 + RANDOM % 10000))
cp -r "$alias_dir/examples" examples
sed -i "s/\b1053\b/$port/g" examples/Corefile
./coredns -conf examples/Corefile &
servers+=($!)
answers "$port"

etcd=$((port + 1))
etcd --data-dir "$work/etcd" --listen-client-urls "http://127.0.0.1:$etcd" --advertise-client-urls "http://127.0.0.1:$etcd" \
	--listen-peer-urls "http://127.0.0.1:$((port + 2))" 2>"$work/etcd.log" &
servers+=($!)
for _ in $(seq 100); do
	! ETCDCTL_API=3 etcdctl --endpoints "http://127.0.0.1:$etcd" put /skydns/com/example/dns/apex/a \
		'{"host": "myapp.hosting.example", "ttl": 60}' 2>/dev/null || break
	sleep 0.1
done
cat >Corefile <<EOF
example.com:$((port + 3)) {
    bind 127.0.0.1
    alias {
        flatten apex
        upstream 127.0.0.1:$port
    }
    etcd {
        endpoint http://127.0.0.1:$etcd
    }
    errors
}
EOF
./coredns -conf Corefile &
servers+=($!)
answers $((port + 3))
