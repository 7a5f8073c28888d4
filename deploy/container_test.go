package deploy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
)

// checkContainer checks a container that runs alias, with its pod and its Corefile. It returns the Corefile.
func checkContainer(t *testing.T, objects []runtime.Object, pod *corev1.PodSpec, c *corev1.Container) string {
	t.Helper()
	checkHardened(t, c)
	if _, tag, ok := strings.Cut(c.Image, "/coredns-alias:"); !ok || tag == "latest" {
		t.Errorf("The image is %s", c.Image)
	}

	corefile := checkMounts(t, objects, pod, c)
	for _, reference := range regexp.MustCompile(`\{\$(\w+)\}`).FindAllStringSubmatch(corefile, -1) {
		if !hasVariable(objects, pod, c, reference[1]) {
			t.Errorf("The container has no variable %s", reference[1])
		}
	}
	if !strings.Contains(corefile, "\n    reload\n") {
		t.Error("The server does not reload a changed Corefile")
	}
	for i, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil {
			t.Fatalf("There is no %s probe", []string{"startup", "readiness", "liveness"}[i])
		}
		checkListener(t, corefile, strings.TrimPrefix(probe.HTTPGet.Path, "/"), containerPort(t, c, probe.HTTPGet.Port.StrVal))
	}
	if c.ReadinessProbe.HTTPGet.Path != "/ready" || c.LivenessProbe.HTTPGet.Path != "/health" {
		t.Error("The readiness probe must be /ready, and the liveness probe, which restarts the container, /health")
	}
	i := slices.IndexFunc(c.Ports, func(p corev1.ContainerPort) bool { return strings.HasSuffix(p.Name, "metrics") })
	if i < 0 {
		t.Fatal("There is no port for metrics")
	}
	checkListener(t, corefile, "prometheus", c.Ports[i])
	return corefile
}

// checkHardened checks that a container runs without privileges, and has bounds.
func checkHardened(t *testing.T, c *corev1.Container) {
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
		t.Errorf("securityContext, -want +got:\n%s", diff)
	}
	if r := c.Resources; r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || r.Limits.Memory().IsZero() {
		t.Errorf("The resources are %v", r)
	}
}

// checkListener checks that a plugin of the Corefile listens at port of all addresses, because the kubelet and Prometheus are
// not in the pod.
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

// checkMounts checks the mounts of a container that runs alias, and returns its Corefile.
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
			t.Errorf("%s is mounted with subPath: updates would not reach the container", mount.Name)
		}
		switch source := pod.Volumes[i].VolumeSource; {
		case source.ConfigMap != nil && mount.MountPath == configDir && len(source.ConfigMap.Items) == 0:
			config = find[*corev1.ConfigMap](t, objects, source.ConfigMap.Name).Data
			if source.ConfigMap.Name != "alias" {
				t.Errorf("The ConfigMap is %s: with a hash in its name, each change would replace the pods", source.ConfigMap.Name)
			}
		case (source.EmptyDir != nil || source.PersistentVolumeClaim != nil) && !mount.ReadOnly:
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
		t.Errorf("The file of persist, %v, is in none of the writable volumes %v", persist, states)
	}
	return corefile
}

// containerPort returns the port of c with this name. It fails if there is none.
func containerPort(t *testing.T, c *corev1.Container, name string) corev1.ContainerPort {
	t.Helper()
	i := slices.IndexFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("The container has no port %q", name)
	}
	return c.Ports[i]
}

// protocol returns p, or the default of the API server if p is empty.
func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// variable returns the value of an environment variable of c, or "" if it is not set.
func variable(c *corev1.Container, name string) string {
	i := slices.IndexFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == name })
	if i < 0 {
		return ""
	}
	return c.Env[i].Value
}

// hasVariable reports whether an environment variable of c is set: in the manifest, from a Secret, or with the address of a
// Service of objects.
func hasVariable(objects []runtime.Object, pod *corev1.PodSpec, c *corev1.Container, name string) bool {
	if variable(c, name) != "" {
		return true
	}
	if slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool {
		return v.Name == name && v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil
	}) {
		return true
	}
	return *pod.EnableServiceLinks && slices.ContainsFunc(objects, func(o runtime.Object) bool {
		s, ok := o.(*corev1.Service)
		return ok && s.Spec.ClusterIP != corev1.ClusterIPNone &&
			name == strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))+"_SERVICE_HOST"
	})
}
