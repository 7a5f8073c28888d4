package deploy

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The pod resolves names with the sidecar, which is ready before the application starts.
func TestSidecar(t *testing.T) {
	objects := mustBuild(t, sidecar)
	checkSidecar(t, objects, "default", find[*appsv1.Deployment](t, objects, "application").Spec.Template.Spec)
}

// The component adds the same sidecar to an operator's own workload, as the page shows it.
func TestSidecarOfOwnWorkload(t *testing.T) {
	component, err := filepath.Abs(sidecar + "/component")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	component, err = filepath.Rel(dir, component)
	if err != nil {
		t.Fatal(err)
	}
	kustomization := fenced(t, "kind: Kustomization\nnamespace: shop\n")
	write(t, filepath.Join(dir, "kustomization.yaml"), replaced(t, kustomization,
		"https://github.com/coredns/alias//deploy/kubernetes/sidecar/component?ref=main", component))
	write(t, filepath.Join(dir, "Corefile"), read(t, sidecar+"/Corefile"))
	write(t, filepath.Join(dir, "checkout.yaml"), `apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: checkout
spec:
  template:
    spec:
      initContainers:
      - name: migrate
        image: migrate
      containers:
      - name: checkout
        image: checkout
        ports:
        - containerPort: 8080
`)
	objects := mustBuild(t, dir)
	pod := find[*appsv1.StatefulSet](t, objects, "checkout").Spec.Template.Spec
	checkSidecar(t, objects, "shop", pod)
	if len(pod.InitContainers) != 2 || pod.InitContainers[1].Name != "migrate" || len(pod.Containers) != 1 {
		t.Errorf("The workload's own containers have changed: %v, %v", pod.InitContainers, pod.Containers)
	}
	if got, want := variable(&pod.InitContainers[0], "CLUSTER_DNS"), "10.43.0.10"; got != want {
		t.Errorf("Cluster DNS is at %q, want %q", got, want)
	}
}

// checkSidecar checks a pod with the sidecar, which is in this namespace.
func checkSidecar(t *testing.T, objects []runtime.Object, namespace string, pod corev1.PodSpec) {
	t.Helper()
	c := &pod.InitContainers[0] // the first one, so that the others can resolve names too
	if c.Name != "alias" || c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Errorf("The first init container is %s, with restartPolicy %v", c.Name, c.RestartPolicy)
	}
	corefile := checkContainer(t, objects, &pod, c)
	if c.StartupProbe.HTTPGet.Path != "/ready" {
		t.Error("The application does not wait for the sidecar to be ready")
	}

	ndots := "5"
	searches := []string{namespace + ".svc.cluster.local", "svc.cluster.local", "cluster.local"}
	want := &corev1.PodDNSConfig{
		Nameservers: []string{"127.0.0.1"},
		Searches:    searches,
		Options:     []corev1.PodDNSConfigOption{{Name: "ndots", Value: &ndots}},
	}
	if diff := cmp.Diff(want, pod.DNSConfig); diff != "" || pod.DNSPolicy != corev1.DNSNone {
		t.Errorf("dnsPolicy is %s; dnsConfig, -want +got:\n%s", pod.DNSPolicy, diff)
	}
	if heads := regexp.MustCompile(`(?m)^[^#\s].*\{$`).FindAllString(corefile, -1); !slices.Equal(heads, []string{".:53 {"}) {
		t.Errorf("The server blocks are %v, want one at port 53, which resolvers use", heads)
	}
	if !strings.Contains(corefile, "\n    bind 127.0.0.1\n") {
		t.Error("The server does not listen at 127.0.0.1 alone")
	}
	if _, err := netip.ParseAddr(variable(c, "CLUSTER_DNS")); err != nil {
		t.Errorf("CLUSTER_DNS: %v", err)
	}
	suffix := strings.ReplaceAll(variable(c, "SEARCH_DOMAIN"), "$(POD_NAMESPACE)", namespace)
	if suffix != searches[0] {
		t.Errorf("SEARCH_DOMAIN is %q, want %q", suffix, searches[0])
	}
	records := regexp.MustCompile(`(?m)^\s+record (\S+) (\S+)$`).FindAllStringSubmatch(corefile, -1)
	for _, record := range records {
		searched := record[1] + ".{$SEARCH_DOMAIN}"
		if !strings.HasSuffix(record[1], ".{$SEARCH_DOMAIN}") && !slices.ContainsFunc(records, func(r []string) bool {
			return r[1] == searched && r[2] == record[2]
		}) {
			t.Errorf("There is no record %s", searched)
		}
	}

	sysctl := corev1.Sysctl{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}
	if want := (&corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{sysctl}}); !reflect.DeepEqual(want, pod.SecurityContext) {
		t.Errorf("The securityContext of the pod is %v, want %v", pod.SecurityContext, want)
	}
	taken := make(map[string]string)
	for _, other := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, port := range other.Ports {
			key := fmt.Sprint(port.Protocol, port.ContainerPort)
			if by, ok := taken[key]; ok {
				t.Errorf("%s and %s both have port %d", by, other.Name, port.ContainerPort)
			}
			taken[key] = other.Name
		}
	}
}
