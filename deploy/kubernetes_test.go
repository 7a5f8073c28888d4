// Package deploy tests what operators deploy.
package deploy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	sidecar       = "kubernetes/sidecar"
	authoritative = "kubernetes/authoritative"
	clusterDNS    = "kubernetes/cluster-dns"
	page          = "../docs/kubernetes.md"
)

// decode reads an object as kubectl --validate=strict has it read: a field that is not known, or is there twice, is an error.
func decode(manifest []byte) (runtime.Object, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, policyv1.AddToScheme, monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	object, _, err := strict.Decode(manifest, nil, nil)
	return object, err
}

// build returns the objects that kustomize makes of a directory, as kubectl apply -k does.
func build(dir string) ([]runtime.Object, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	var objects []runtime.Object
	for _, resource := range built.Resources() {
		manifest, err := resource.AsYAML()
		if err != nil {
			return nil, err
		}
		object, err := decode(manifest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", resource.CurId(), err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

func mustBuild(t *testing.T, dir string) []runtime.Object {
	t.Helper()
	objects, err := build(dir)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// find returns the object of type T with this name.
func find[T metav1.Object](t *testing.T, objects []runtime.Object, name string) T {
	t.Helper()
	for _, object := range objects {
		if o, ok := object.(T); ok && o.GetName() == name {
			return o
		}
	}
	var none T
	t.Fatalf("There is no %T %s", none, name)
	return none
}

// A misspelt field, wherever it is, is found.
func TestMisspelt(t *testing.T) {
	for _, test := range []struct{ file, was, becomes, want string }{
		{"sidecar/kustomization.yaml", "generatorOptions:", "generatorOption:", `unknown field "generatorOption"`},
		{"sidecar/component/pod.yaml", "restartPolicy:", "restartPolcy:", `unknown field "spec.template.spec.initContainers[0].restartPolcy"`},
		{"sidecar/component/pod.yaml", "dnsPolicy:", "dnspolicy:", `unknown field "spec.template.spec.dnspolicy"`},
		{"sidecar/component/pod.yaml", "startupProbe:", "startProbe:", `unknown field "spec.template.spec.initContainers[0].startProbe"`},
		{"sidecar/component/pod.yaml", "emptyDir:", "emptydir:", `unknown field "spec.template.spec.volumes[1].emptydir"`},
		{"sidecar/component/pod.yaml", "sysctls:", "sysctl:", `unknown field "spec.template.spec.securityContext.sysctl"`},
		{"sidecar/component/pod.yaml", "fieldRef:", "fieldReference:", `unknown field "spec.template.spec.initContainers[0].env[1].valueFrom.fieldReference"`},
		{"sidecar/application.yaml", "resources:", "resource:", `unknown field "spec.template.spec.containers[0].resource"`},
		{"authoritative/deployment.yaml", "maxSurge:", "maxsurge:", `unknown field "spec.strategy.rollingUpdate.maxsurge"`},
		{"authoritative/deployment.yaml", "replicas: 2", "replicas: 2\n  replicas: 3", `"replicas" already defined`},
		{"authoritative/deployment.yaml", "replicas: 2", "replicas: two", `of type int32`},
		{"authoritative/service.yaml", "externalTrafficPolicy:", "externalTraficPolicy:", `unknown field "spec.externalTraficPolicy"`},
		{"authoritative/poddisruptionbudget.yaml", "maxUnavailable:", "maxUnavailble:", `unknown field "spec.maxUnavailble"`},
		{"authoritative/servicemonitor.yaml", "endpoints:", "endpoint:", `unknown field "spec.endpoint"`},
		{"authoritative/servicemonitor.yaml", "kind: ServiceMonitor", "kind: ServiceMonitr", `no kind "ServiceMonitr" is registered`},
	} {
		t.Run(test.file+" "+test.becomes, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS("kubernetes")); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, test.file)
			write(t, file, replaced(t, read(t, file), test.was, test.becomes))
			overlay, _, _ := strings.Cut(test.file, "/")
			if _, err := build(filepath.Join(dir, overlay)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Got the error %v, want one with %q", err, test.want)
			}
		})
	}
}

// The sidecar is what the pod resolves with, and is ready before the application starts.
func TestSidecar(t *testing.T) {
	objects := mustBuild(t, sidecar)
	checkSidecar(t, objects, "default", find[*appsv1.Deployment](t, objects, "application").Spec.Template.Spec)
}

// The component does the same for an operator's own workload, in the way that the page says.
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
		t.Errorf("The containers of the workload's own are not what they were: %v, %v", pod.InitContainers, pod.Containers)
	}
	if got, want := variable(&pod.InitContainers[0], "CLUSTER_DNS"), "10.43.0.10"; got != want {
		t.Errorf("Cluster DNS is at %q, want %q", got, want)
	}
}

// checkSidecar checks a pod in this namespace that has the sidecar.
func checkSidecar(t *testing.T, objects []runtime.Object, namespace string, pod corev1.PodSpec) {
	t.Helper()
	c := &pod.InitContainers[0] // the first: what comes after it is to resolve names too
	if c.Name != "alias" || c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Errorf("The first init container is %s, with restartPolicy %v", c.Name, c.RestartPolicy)
	}
	corefile := checkContainer(t, objects, &pod, c)
	if c.StartupProbe.HTTPGet.Path != "/ready" {
		t.Error("The application does not wait until the sidecar is ready")
	}

	ndots := "5"
	searches := []string{namespace + ".svc.cluster.local", "svc.cluster.local", "cluster.local"}
	want := &corev1.PodDNSConfig{
		Nameservers: []string{"127.0.0.1"},
		Searches:    searches,
		Options:     []corev1.PodDNSConfigOption{{Name: "ndots", Value: &ndots}},
	}
	if diff := cmp.Diff(want, pod.DNSConfig); diff != "" || pod.DNSPolicy != corev1.DNSNone {
		t.Errorf("dnsPolicy is %s, dnsConfig is not what it should be:\n%s", pod.DNSPolicy, diff)
	}
	if heads := regexp.MustCompile(`(?m)^[^#\s].*\{$`).FindAllString(corefile, -1); !slices.Equal(heads, []string{".:53 {"}) {
		t.Errorf("The server blocks are %v, want one at the port that resolv.conf means", heads)
	}
	if !strings.Contains(corefile, "\n    bind 127.0.0.1\n") {
		t.Error("DNS is not at the address of the resolver alone")
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
		t.Errorf("The sidecar asks this of the whole pod: %v", pod.SecurityContext)
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

func TestAuthoritative(t *testing.T) {
	objects := mustBuild(t, authoritative)
	deployment := find[*appsv1.Deployment](t, objects, "alias")
	pod := &deployment.Spec.Template.Spec
	c := &pod.Containers[0]
	corefile := checkContainer(t, objects, pod, c)

	if update := deployment.Spec.Strategy.RollingUpdate; *deployment.Spec.Replicas < 2 || *update.MaxUnavailable != intstr.FromInt32(0) {
		t.Errorf("There are %d replicas, and %s of them may be missing in an update", *deployment.Spec.Replicas, update.MaxUnavailable)
	}
	if regexp.MustCompile(`(?m)^\s+transfer\b`).MatchString(corefile) {
		t.Error("Each of the replicas has a serial number of its own")
	}
	own := labels.Set(deployment.Spec.Template.Labels)
	selects := func(what string, s *metav1.LabelSelector) {
		t.Helper()
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil || selector.Empty() || !selector.Matches(own) {
			t.Errorf("The selector of the %s is %v (%v), the pods have %v", what, selector, err, own)
		}
	}
	selects("Deployment", deployment.Spec.Selector)
	for _, constraint := range pod.TopologySpreadConstraints {
		selects("spread over "+constraint.TopologyKey, constraint.LabelSelector)
	}
	pdb := find[*policyv1.PodDisruptionBudget](t, objects, "alias")
	selects("PodDisruptionBudget", pdb.Spec.Selector)
	if *pdb.Spec.MaxUnavailable != intstr.FromInt32(1) {
		t.Errorf("%s replicas may be evicted at a time", pdb.Spec.MaxUnavailable)
	}

	service, metrics := find[*corev1.Service](t, objects, "alias"), find[*corev1.Service](t, objects, "alias-metrics")
	for _, s := range []*corev1.Service{service, metrics} {
		selects("Service "+s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		for _, port := range s.Spec.Ports {
			to := containerPort(t, c, port.TargetPort.StrVal)
			if protocol(to.Protocol) != protocol(port.Protocol) {
				t.Errorf("Port %s of Service %s leads to another protocol", port.Name, s.Name)
			}
		}
	}
	for _, want := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
		i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == 53 && protocol(p.Protocol) == want })
		if i < 0 {
			t.Fatalf("The Service has no port 53 for %s", want)
		}
		to := containerPort(t, c, service.Spec.Ports[i].TargetPort.StrVal)
		if !strings.Contains(corefile, fmt.Sprintf("example.com:%d {", to.ContainerPort)) {
			t.Errorf("The Corefile does not serve at port %d", to.ContainerPort)
		}
	}
	if service.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		t.Error("The servers do not see the addresses of their clients")
	}

	monitor := find[*monitoringv1.ServiceMonitor](t, objects, "alias")
	selector, err := metav1.LabelSelectorAsSelector(&monitor.Spec.Selector)
	if err != nil || !selector.Matches(labels.Set(metrics.Labels)) || selector.Matches(labels.Set(service.Labels)) {
		t.Errorf("The ServiceMonitor selects %v (%v)", selector, err)
	}
	for _, endpoint := range monitor.Spec.Endpoints {
		if !slices.ContainsFunc(metrics.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == endpoint.Port }) {
			t.Errorf("The Service has no port %q", endpoint.Port)
		}
	}
	if len(monitor.Spec.Endpoints) != 1 {
		t.Errorf("There are %d endpoints to scrape", len(monitor.Spec.Endpoints))
	}
}

// checkContainer checks a container that runs alias, with what its pod and its Corefile have for it. It returns the Corefile.
func checkContainer(t *testing.T, objects []runtime.Object, pod *corev1.PodSpec, c *corev1.Container) string {
	t.Helper()
	yes, no, user := true, false, int64(65532)
	hardened := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no,
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		ReadOnlyRootFilesystem:   &yes,
		RunAsGroup:               &user,
		RunAsNonRoot:             &yes,
		RunAsUser:                &user,
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if diff := cmp.Diff(hardened, c.SecurityContext); diff != "" {
		t.Errorf("The securityContext is not what it should be:\n%s", diff)
	}
	if r := c.Resources; r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || r.Limits.Memory().IsZero() {
		t.Errorf("The resources are %v", r)
	}
	if _, tag, ok := strings.Cut(c.Image, "/coredns-alias:"); !ok || tag == "latest" {
		t.Errorf("The image is %s", c.Image)
	}

	corefile := checkMounts(t, objects, pod, c)
	for _, reference := range regexp.MustCompile(`\{\$(\w+)\}`).FindAllStringSubmatch(corefile, -1) {
		if variable(c, reference[1]) == "" {
			t.Errorf("The container has no variable %s", reference[1])
		}
	}
	if !strings.Contains(corefile, "\n    reload\n") {
		t.Error("A changed Corefile is not taken")
	}
	for i, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil {
			t.Fatalf("There is no %s probe", []string{"startup", "readiness", "liveness"}[i])
		}
		checkListener(t, corefile, strings.TrimPrefix(probe.HTTPGet.Path, "/"), containerPort(t, c, probe.HTTPGet.Port.StrVal))
	}
	if c.ReadinessProbe.HTTPGet.Path != "/ready" || c.LivenessProbe.HTTPGet.Path != "/health" {
		t.Error("A pod that is not ready is not to be restarted, and one that is ill is")
	}
	i := slices.IndexFunc(c.Ports, func(p corev1.ContainerPort) bool { return strings.HasSuffix(p.Name, "metrics") })
	if i < 0 {
		t.Fatal("There is no port for metrics")
	}
	checkListener(t, corefile, "prometheus", c.Ports[i])
	return corefile
}

// checkListener checks that a plugin of the Corefile listens at port of all addresses: neither the kubelet nor Prometheus
// is in the pod.
func checkListener(t *testing.T, corefile, plugin string, port corev1.ContainerPort) {
	t.Helper()
	m := regexp.MustCompile(`(?m)^    ` + plugin + `( \S+)?(?: \{)?$`).FindStringSubmatch(corefile)
	if m == nil {
		t.Fatalf("The Corefile has no %s", plugin)
	}
	address := strings.TrimSpace(m[1])
	if address == "" || address == "{" {
		address = map[string]string{"health": ":8080", "ready": ":8181", "prometheus": "localhost:9153"}[plugin]
	}
	if want := fmt.Sprintf(":%d", port.ContainerPort); address != want {
		t.Errorf("%s listens at %s, want %s", plugin, address, want)
	}
	if errs := validation.IsValidPortName(port.Name); len(errs) > 0 {
		t.Errorf("Port %s: %v", port.Name, errs)
	}
}

// checkMounts checks what is mounted in a container that runs alias, and returns its Corefile.
func checkMounts(t *testing.T, objects []runtime.Object, pod *corev1.PodSpec, c *corev1.Container) string {
	t.Helper()
	if len(c.Args) != 2 || c.Args[0] != "-conf" {
		t.Fatalf("The arguments are %v", c.Args)
	}
	configDir := path.Dir(c.Args[1])
	var config map[string]string // the files of configDir
	states := make(map[string]bool)
	for _, mount := range c.VolumeMounts {
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		if i < 0 {
			t.Fatalf("The pod has no volume %s", mount.Name)
		}
		if mount.SubPath != "" || mount.SubPathExpr != "" {
			t.Errorf("%s is mounted with subPath: no update would arrive", mount.Name)
		}
		switch source := pod.Volumes[i].VolumeSource; {
		case source.ConfigMap != nil && mount.MountPath == configDir && len(source.ConfigMap.Items) == 0:
			config = find[*corev1.ConfigMap](t, objects, source.ConfigMap.Name).Data
			if source.ConfigMap.Name != "alias" {
				t.Errorf("The ConfigMap is %s: with a hash in it, each change would replace the pods", source.ConfigMap.Name)
			}
		case source.EmptyDir != nil && !mount.ReadOnly:
			states[mount.MountPath] = true
		}
	}
	corefile, ok := config[path.Base(c.Args[1])]
	if !ok {
		t.Fatalf("%s is not mounted", c.Args[1])
	}
	for _, file := range regexp.MustCompile(regexp.QuoteMeta(configDir)+`/(\S+)`).FindAllStringSubmatch(corefile, -1) {
		if _, ok := config[file[1]]; !ok {
			t.Errorf("%s is not mounted", file[0])
		}
	}
	persist := regexp.MustCompile(`(?m)^\s+persist (\S+)$`).FindStringSubmatch(corefile)
	if persist == nil || !states[path.Dir(persist[1])] {
		t.Errorf("The file of persist, %v, is in none of %v", persist, states)
	}
	return corefile
}

// containerPort returns the port of c with this name.
func containerPort(t *testing.T, c *corev1.Container, name string) corev1.ContainerPort {
	t.Helper()
	i := slices.IndexFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("The container has no port %q", name)
	}
	return c.Ports[i]
}

// protocol returns p, or what the API server takes where there is none.
func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// variable returns the value of an environment variable of c, or "".
func variable(c *corev1.Container, name string) string {
	i := slices.IndexFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == name })
	if i < 0 {
		return ""
	}
	return c.Env[i].Value
}

// values are those of the chart's that values.yaml sets.
type values struct {
	Image struct {
		Repository string `json:"repository"`
		Tag        string `json:"tag"`
	} `json:"image"`
	ReplicaCount int `json:"replicaCount"`
	Service      struct {
		Name      string `json:"name"`
		ClusterIP string `json:"clusterIP"`
	} `json:"service"`
	K8sAppLabelOverride string `json:"k8sAppLabelOverride"`
	ServiceAccount      struct {
		Create bool `json:"create"`
	} `json:"serviceAccount"`
	PriorityClassName         string                            `json:"priorityClassName"`
	RollingUpdate             appsv1.RollingUpdateDeployment    `json:"rollingUpdate"`
	PodDisruptionBudget       policyv1.PodDisruptionBudgetSpec  `json:"podDisruptionBudget"`
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints"`
	Tolerations               []corev1.Toleration               `json:"tolerations"`
	Resources                 corev1.ResourceRequirements       `json:"resources"`
	PodSecurityContext        corev1.PodSecurityContext         `json:"podSecurityContext"`
	Prometheus                struct {
		Service struct {
			Enabled bool `json:"enabled"`
		} `json:"service"`
		Monitor struct {
			Enabled bool `json:"enabled"`
		} `json:"monitor"`
	} `json:"prometheus"`
	ExtraVolumes      []corev1.Volume      `json:"extraVolumes"`
	ExtraVolumeMounts []corev1.VolumeMount `json:"extraVolumeMounts"`
	Servers           []server             `json:"servers"`
}

// server is what the chart makes a server block of.
type server struct {
	Zones []struct {
		Zone   string `json:"zone"`
		UseTCP bool   `json:"use_tcp"`
	} `json:"zones"`
	Port    int `json:"port"`
	Plugins []struct {
		Name        string `json:"name"`
		Parameters  string `json:"parameters"`
		ConfigBlock string `json:"configBlock"`
	} `json:"plugins"`
}

// block returns the server block that the chart makes of s.
func (s server) block() string {
	var b strings.Builder
	for _, zone := range s.Zones {
		fmt.Fprintf(&b, "%s:%d ", zone.Zone, s.Port)
	}
	b.WriteString("{\n")
	for _, plugin := range s.Plugins {
		b.WriteString("    " + strings.TrimSpace(plugin.Name+" "+plugin.Parameters))
		if plugin.ConfigBlock != "" {
			b.WriteString(" {\n")
			for line := range strings.Lines(plugin.ConfigBlock) {
				b.WriteString("        " + line)
			}
			b.WriteString("\n    }")
		}
		b.WriteString("\n")
	}
	return b.String() + "}\n"
}

// parseValues reads values.yaml, where a key that is not among those of values, or is there twice, is an error.
func parseValues(text string) (v values, err error) {
	data, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return v, err
	}
	unknown, err := kjson.UnmarshalStrict(data, &v)
	return v, errors.Join(append(unknown, err)...)
}

// The values for the chart make the Corefile beside them, and give it what it needs.
func TestClusterDNS(t *testing.T) {
	text, corefile := read(t, clusterDNS+"/values.yaml"), read(t, clusterDNS+"/Corefile")
	v, err := parseValues(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseValues(replaced(t, text, "extraVolumeMounts:", "extraVolumeMount:")); err == nil {
		t.Error("A misspelt key is not found")
	}
	if len(v.Servers) != 1 {
		t.Fatalf("There are %d servers", len(v.Servers))
	}
	if diff := cmp.Diff(corefile, v.Servers[0].block()); diff != "" {
		t.Errorf("The Corefile is not what the chart makes of the values:\n%s", diff)
	}
	for port, plugin := range map[int32]string{8080: "health", 8181: "ready", 9153: "prometheus"} { // which the chart has written down
		checkListener(t, corefile, plugin, corev1.ContainerPort{Name: plugin, ContainerPort: port})
	}
	persist := regexp.MustCompile(`persist (\S+)`).FindStringSubmatch(corefile)
	mount, volume := v.ExtraVolumeMounts[0], v.ExtraVolumes[0]
	if mount.Name != volume.Name || volume.EmptyDir == nil || persist == nil || path.Dir(persist[1]) != mount.MountPath {
		t.Errorf("The file of persist, %v, is not in %v, %v", persist, mount, volume)
	}
	for _, constraint := range v.TopologySpreadConstraints {
		if constraint.LabelSelector.MatchLabels["k8s-app"] != v.K8sAppLabelOverride {
			t.Errorf("The spread is over pods with %v", constraint.LabelSelector)
		}
	}
	if !strings.Contains(v.Image.Tag, "alias") {
		t.Errorf("The image is %v, which may have no alias", v.Image)
	}
	if _, err := netip.ParseAddr(v.Service.ClusterIP); err != nil {
		t.Error(err)
	}
}

// What the page tells to render renders, and the files that it names are there.
func TestPage(t *testing.T) {
	text := read(t, page)
	rendered := regexp.MustCompile(`(?m)^kubectl (?:-n \S+ )?(?:kustomize|apply -k) (\S+)$`).FindAllStringSubmatch(text, -1)
	if len(rendered) < 4 {
		t.Errorf("Found %d commands that render", len(rendered))
	}
	for _, command := range rendered {
		mustBuild(t, "../"+command[1])
	}
	for _, name := range regexp.MustCompile(`\b(?:deploy/kubernetes|docs|test|cmd)/[\w./-]*\w`).FindAllString(text, -1) {
		if _, err := os.Stat("../" + name); err != nil {
			t.Error(err)
		}
	}

	monitor, err := decode([]byte(fenced(t, "kind: PodMonitor\n")))
	if err != nil {
		t.Fatal(err)
	}
	pod := find[*appsv1.Deployment](t, mustBuild(t, sidecar), "application").Spec.Template
	spec := monitor.(*monitoringv1.PodMonitor).Spec
	selector, err := metav1.LabelSelectorAsSelector(&spec.Selector)
	if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
		t.Errorf("The PodMonitor selects %v (%v), the pods have %v", selector, err, pod.Labels)
	}
	containerPort(t, &pod.Spec.InitContainers[0], *spec.PodMetricsEndpoints[0].Port)
}

// fenced returns the YAML of the page that contains text.
func fenced(t *testing.T, text string) string {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?ms)^~~~ yaml\n(.*?)^~~~$`).FindAllStringSubmatch(read(t, page), -1) {
		if strings.Contains(m[1], text) {
			return m[1]
		}
	}
	t.Fatalf("The page has no YAML with %q", text)
	return ""
}

// replaced returns text with the first was replaced, which has to be there.
func replaced(t *testing.T, text, was, becomes string) string {
	t.Helper()
	if !strings.Contains(text, was) {
		t.Fatalf("%q is not in\n%s", was, text)
	}
	return strings.Replace(text, was, becomes, 1)
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
