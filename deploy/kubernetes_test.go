// Package deploy tests the manifests and values that operators deploy, without a cluster.
package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	sidecar       = "kubernetes/sidecar"
	authoritative = "kubernetes/authoritative"
	shared        = "kubernetes/authoritative-share"
	withVolumes   = "kubernetes/authoritative-volume"
	clusterDNS    = "kubernetes/cluster-dns"
	page          = "../docs/kubernetes.md"
)

// decode reads an object like kubectl --validate=strict: an unknown field, or one that is there twice, is an error.
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

// build returns the objects that kustomize builds from a directory, like kubectl apply -k.
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

// A misspelt field is an error in each of the files.
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
		{"authoritative-share/kustomization.yaml", "secretKeyRef:", "secretRef:", `unknown field "spec.template.spec.containers[0].env[0].valueFrom.secretRef"`},
		{"authoritative-share/store.yaml", "targetPort:", "targetport:", `unknown field "spec.ports[0].targetport"`},
		{"authoritative-volume/statefulset.yaml", "/spec/volumeClaimTemplates", "/spec/volumeClaimTemplate", `unknown field "spec.volumeClaimTemplate"`},
		{"authoritative-volume/statefulset.yaml", "volumes/1/name", "volumes/0/name", `testing value /spec/template/spec/volumes/0/name failed`},
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

// The directories that the page renders can be rendered, the files that it names exist, and its PodMonitor selects the sidecar.
func TestPage(t *testing.T) {
	text := read(t, page)
	rendered := regexp.MustCompile(`(?m)^kubectl (?:-n \S+ )?(?:kustomize|apply -k) (\S+)$`).FindAllStringSubmatch(text, -1)
	if len(rendered) < 4 {
		t.Errorf("Found %d commands that render a directory", len(rendered))
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

// fenced returns the YAML block of the page that contains text.
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

// replaced returns text with the first was replaced. It fails if there is none.
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
