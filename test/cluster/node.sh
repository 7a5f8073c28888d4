#!/usr/bin/env bash
# Makes the namespaces in which it is started a node and a cluster, and runs a command there: see cluster.sh.
set -euo pipefail

: "${work:?is of cluster.sh}"
here=$(cd "$(dirname "$0")" && pwd)
address=10.0.2.100 # which slirp4netns gives
export PATH=$here/bin:$work/bin:$PATH:/usr/sbin
trap '[ $? -eq 0 ] || tail -n 20 "$work"/*.log >&2' EXIT

# start has a program run as long as the node.
start() { "$@" >"$work/$1.log" 2>&1 & }

# What the node writes there is its own; it does see what the machine has.
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir "$work/node"
mount -t tmpfs tmpfs "$work/node" # an overlay cannot be on another one, which the machine's root may be
for d in /etc /opt /var; do
	mkdir -p "$work/node"/{written,work}"$d"
	mount -t overlay -o "lowerdir=$d,upperdir=$work/node/written$d,workdir=$work/node/work$d" overlay "$d"
done
mkdir -p /opt/cni/bin /var/lib/containerd /var/lib/registry
mount --bind /usr/lib/cni /opt/cni/bin
mount -t tmpfs tmpfs /var/lib/containerd
cp -r "$here/etc" /
mount --make-rshared /

# A network, and a resolver.
hostname node
ip link set lo up
until ip -brief address show tap0 2>/dev/null | grep -q "$address"; do sleep 0.1; done
echo 1 >/proc/sys/net/ipv4/ip_forward
printf '%s\n' '127.0.0.1 localhost registry.example.com' "$address node" >/etc/hosts
echo "nameserver $address" >/etc/resolv.conf
start resolver -conf /etc/coredns/Corefile

# Images, and what runs them. Kubernetes's and CoreDNS's are what has been compiled, and a Debian stands in for all that others
# begin with, or that a page asks for.
start docker-registry serve /etc/registry/config.yml
start containerd
until curl -fs http://registry.example.com/v2/ >/dev/null; do sleep 0.1; done

# image makes an image of a file.
image() {
	docker build --quiet --file - --tag "$1" "$(dirname "$2")" <<-END
		FROM scratch
		COPY $(basename "$2") /
		ENV PATH=/
		ENTRYPOINT ["/$(basename "$2")"]
	END
	docker push --quiet "$1" "docker://registry.example.com/${1#*/}"
}
gcc -Os -static -DVERSION=3.10.1 -o "$work/bin/pause" "$(go -C "$here" list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c"
image registry.k8s.io/pause:3.10.1 "$work/bin/pause"
image registry.k8s.io/coredns/coredns:v1.12.1 "$work/bin/coredns"
for program in kube-apiserver kube-controller-manager kube-scheduler; do
	image "registry.k8s.io/$program:$KUBERNETES" "$work/bin/$program"
done
docker build --quiet --file - --tag debian "$work" <<-END
	FROM scratch
	COPY debian /
	ENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin GOCACHE=/cache GOMODCACHE=/modules GOTOOLCHAIN=local
END
for name in docker.io/library/{golang:1.26-alpine,debian:stable-slim} gcr.io/distroless/static-debian12:nonroot; do
	docker tag debian "$name"
done
for name in library/debian:trixie-slim valkey/valkey:8.1 e2e-test-images/agnhost:2.39; do
	docker push --quiet debian "docker://registry.example.com/$name"
done

echo '-- a cluster'
start etcd --data-dir "$work/etcd"
kubelet_of_kubeadm() {
	until [ -f /var/lib/kubelet/config.yaml ]; do sleep 0.1; done
	exec kubelet --config /var/lib/kubelet/config.yaml --kubeconfig /etc/kubernetes/kubelet.conf \
		--container-runtime-endpoint unix:///run/containerd/containerd.sock --hostname-override node
}
start kubelet_of_kubeadm
sed -i "s/KUBERNETES/$KUBERNETES/" /etc/kubeadm/config.yaml
kubeadm init --config /etc/kubeadm/config.yaml --skip-phases addon/kube-proxy --ignore-preflight-errors all >"$work/kubeadm.log" 2>&1
export KUBECONFIG=/etc/kubernetes/admin.conf
start kube-proxy --kubeconfig "$KUBECONFIG" --hostname-override node --conntrack-max-per-core 0
kubectl -n kube-system rollout status deployment/coredns --timeout 2m
"$@"
