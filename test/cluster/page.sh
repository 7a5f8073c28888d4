#!/usr/bin/env bash
# Runs the commands of docs/kubernetes.md from top to bottom, as they are written, and looks at what comes of them. It is for
# the node of cluster.sh, whose resolver has the targets of the page.
set -euo pipefail

: "${work:?is of cluster.sh}"
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work/source/alias"
cd "$here/../.."
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/source/alias"
cd "$work/source/alias"
page=docs/kubernetes.md

# blocks prints the code of a language that is below a heading, or below one in the section of another.
blocks() {
	awk -v language="$1" -v section="## $2" -v part="${3:+### $3}" '
		/^## / { inside = $0 == section; below = part == "" }
		/^### / && part != "" { below = $0 == part }
		$0 == "~~~ " language { code = inside && below; next }
		/^~~~/ { code = 0 }
		code' "$page"
}

seen=("The cluster's own CoreDNS With the Helm chart" 'Authoritative servers A store, with the Helm chart' 'What is tried, and what is not') # which are not run

# run runs the commands that are below a heading.
run() {
	echo "-- ${*: -1}"
	local commands
	commands=$(blocks sh "$@")
	[ -n "$commands" ] || { echo "no commands there"; exit 1; }
	seen+=("$*")
	show bash -euo pipefail -c "$commands"
}

# show runs a command, for expect and refuse to look at what it prints.
show() { "$@" 2>&1 | tee "$work/printed"; }
expect() { grep -Pq -- "$1" "$work/printed" || { echo "not printed: $1"; exit 1; }; }
refuse() { ! grep -Pq -- "$1" "$work/printed" || { echo "printed: $1"; exit 1; }; }

# restricted checks that the pods of a namespace do with what the Pod Security Standard of that name allows.
restricted() {
	show kubectl label namespace "$1" --dry-run=server pod-security.kubernetes.io/enforce=restricted
	expect labeled
	refuse violate
}

# wait_for waits until a command succeeds.
wait_for() {
	for _ in $(seq "$1"); do
		! "${@:2}" >/dev/null 2>&1 || return 0
		sleep 1
	done
	echo "not within $1 s: ${*:2}"
	exit 1
}

# The Prometheus operator's types, which parts of the manifests are.
operator=$(test/source.sh github.com/prometheus-operator/prometheus-operator@v0.85.0)
for kind in podmonitors servicemonitors prometheusrules; do
	kubectl create -f "$operator/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml"
done

run 'The image'

sidecar="A sidecar in the application's pod"
run "$sidecar" 'Try it'
expect '^203\.0\.113\.90 +STREAM'
refuse '^no addresses$'
expect 'plugin/alias: Zones partner\.example\.com\..*records 2'
expect 'status="(hit|miss)".* [1-9]'
blocks yaml "$sidecar" Metrics | kubectl apply -f -
restricted default

echo '-- the sidecar is killed while cluster DNS is away'
sidecar_has() { [ "$(kubectl get pod -l app.kubernetes.io/name=application -o jsonpath="{.items[0].status.initContainerStatuses[0].$1}")" = "$2" ]; }
no_dns_pods() { [ -z "$(kubectl -n kube-system get pods -l k8s-app=kube-dns -o name)" ]; }
wait_for 60 kubectl -n kube-system rollout status deployment/coredns
kubectl -n kube-system scale deployment coredns --replicas=0
wait_for 60 no_dns_pods
pkill -KILL -f '^/coredns -conf /etc/coredns/Corefile$'
wait_for 60 sidecar_has restartCount 1
wait_for 60 sidecar_has ready true
sleep 15
show kubectl logs deployment/application -c application --since 10s
expect '^203\.0\.113\.90 +STREAM'
refuse '^no addresses$'
kubectl -n kube-system scale deployment coredns --replicas=2

# What gives the Service an address where there are load balancers. kube-proxy does the rest.
balance() {
	wait_for 60 kubectl -n dns patch service alias --subresource status -p '{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.53"}]}}}'
}
balance &
run 'Authoritative servers' 'Try it'
expect '^example\.com\.\s+[1-5]\s+IN\s+A\s+203\.0\.113\.80$'
expect '^example\.com\.\s+3600\s+IN\s+MX\s+10 mail\.example\.com\.$'
restricted dns
generation() { kubectl -n dns get deployment alias -o jsonpath='{.metadata.generation}'; }
before=$(generation)
sed -i 's/\b2026112501\b/2026112502/; s/MX    10/MX    20/' deploy/kubernetes/authoritative/example.com.zone
kubectl -n dns apply -k deploy/kubernetes/authoritative
[ "$(generation)" = "$before" ]

echo '-- the zone has changed'
mx_is() { [ "$(dig @192.0.2.53 example.com MX +short)" = "$1" ]; }
wait_for 240 mx_is '20 mail.example.com.'

echo '-- pods are replaced while the resolver of the node is away'
# replaced replaces all pods of the servers at once, while the resolver of the node does not respond, and looks at their answer.
replaced() {
	pkill -STOP -f '^resolver -conf /etc/coredns/Corefile$'
	kubectl -n dns delete pod -l app.kubernetes.io/name=alias
	wait_for 60 kubectl -n dns rollout status "$1" --timeout 1s
	wait_for 30 answers
	show dig @192.0.2.53 example.com A +norecurse
	pkill -CONT -f '^resolver -conf /etc/coredns/Corefile$'
}
answers() { dig @192.0.2.53 example.com A +norecurse +time=1 +tries=1; }

replaced deployment/alias
expect 'status: NOERROR'
refuse '203\.0\.113\.80'

run 'Authoritative servers' 'Replicas that share their answers'
restricted dns
[ "$(kubectl -n dns get pods,configmaps -o yaml | grep -c "$(kubectl -n dns get secret alias-store -o jsonpath='{.data.password}' | base64 -d)")" = 0 ]
answers
replaced deployment/alias
expect '^example\.com\.\s+30\s+IN\s+A\s+203\.0\.113\.80$'

for i in 0 1; do # which a StorageClass makes elsewhere
	mkdir -p "/var/lib/volumes/$i"
	kubectl apply -f - <<-END
		apiVersion: v1
		kind: PersistentVolume
		metadata:
		  name: volume-$i
		spec:
		  accessModes: [ReadWriteOnce]
		  capacity:
		    storage: 1Gi
		  local:
		    path: /var/lib/volumes/$i
		  nodeAffinity:
		    required:
		      nodeSelectorTerms:
		      - matchExpressions:
		        - {key: kubernetes.io/hostname, operator: In, values: [node]}
	END
done
run 'Authoritative servers' Volumes
restricted dns
[ "$(kubectl -n dns get configmap alias -o yaml | grep -c '^ *share ')" = 0 ]
answers
replaced statefulset/alias
expect '^example\.com\.\s+30\s+IN\s+A\s+203\.0\.113\.80$'

cluster="The cluster's own CoreDNS"
run "$cluster" 'An image with the whole list of plugins'
run "$cluster" 'Without it'
run "$cluster" 'See that it works'
expect '^api\.partner\.example\.com\.\s+[1-5]\s+IN\s+A\s+203\.0\.113\.90$'

echo '-- nothing else is in the page'
diff <(printf '%s\n' "${seen[@]}" | sort) <(awk '
	/^## / { section = substr($0, 4); part = "" }
	/^### / { part = " " substr($0, 5) }
	/^~~~ sh/ { print section part }' "$page" | sort -u)

page=docs/monitoring.md
echo '-- the alerts as an object of the Prometheus operator'
blocks sh Alerts | awk '/^{$/,/kubectl/' | bash -euo pipefail
kubectl get prometheusrule alias
