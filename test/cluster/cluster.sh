#!/usr/bin/env bash
# Runs a command on the one node of a Kubernetes cluster that is made for it: cluster.sh COMMAND [ARGUMENT ...]
#
# The node is namespaces of this machine: mounts, processes, and a network with a way out, by slirp4netns. It is gone when the
# command has ended; what has been compiled stays in Go's cache. All this takes root, and the Debian packages that .ci/run
# installs.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# What a kubelet changes of the machine.
sysctls=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes)

if find /sys/fs/cgroup -type d -name kubepods | grep -q .; then
	echo "there are cgroups of a kubelet on this machine" >&2
	exit 1
fi
export work
work=$(mktemp -d)
node=$(basename "$work")
processes=()
was=$(cd /proc/sys && grep . "${sysctls[@]}")

end() {
	kill "${processes[@]}" 2>/dev/null || true
	wait
	ip netns del "$node" 2>/dev/null || true
	while IFS=: read -r sysctl value; do echo "$value" >"/proc/sys/$sysctl"; done <<<"$was"
	for _ in $(seq 50); do # the last processes may still be on their way out
		find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null && break
		sleep 0.1
	done
	rm -rf --one-file-system "$work"
}
trap end EXIT

echo '-- programs, and a Debian'
unshare --mount debootstrap --variant=minbase --include=bind9-dnsutils,ca-certificates,libcap2-bin,valkey-server trixie "$work/debian" >"$work/debootstrap.log" 2>&1 &
debian=$!
processes+=("$debian")
export KUBERNETES COREDNS
KUBERNETES=$(go -C "$here" list -m -f '{{.Version}}' k8s.io/kubernetes)
COREDNS=$(go -C "$here/../.." list -m -f '{{.Version}}' github.com/coredns/coredns)
# The same settings as in ../plugincfg.sh, and no paths in what is compiled: Go's build cache then serves both, and the page.
export CGO_ENABLED=0 GOFLAGS
GOFLAGS="$(go env GOFLAGS) -trimpath"
# "go run" keeps the linked program in the cache too, which "go install" does not. cp is what runs it.
mkdir "$work/bin"
tools=$(go -C "$here" list tool)
for tool in $tools; do
	go -C "$here" run -exec cp -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$KUBERNETES" "$tool" "$work/bin/"
done
(cd "$work" && go run -exec cp -ldflags '-s -w' "github.com/coredns/coredns@$COREDNS" "$work/bin/")
go -C "$here/../.." run -exec cp ./cmd/coredns "$work/bin/resolver"
unset CGO_ENABLED

wait "$debian" || { tail -n 20 "$work/debootstrap.log"; exit 1; }

echo '-- a node'
ip netns add "$node"
slirp4netns --configure --netns-type=path "/run/netns/$node" tap0 >"$work/slirp4netns.log" 2>&1 &
processes+=($!)
nsenter "--net=/run/netns/$node" unshare --mount --pid --fork --kill-child --uts --ipc "$here/node.sh" "$@" &
processes+=($!)
wait $!
