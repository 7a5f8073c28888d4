package deploy

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// values are the values of the CoreDNS chart that values.yaml sets.
type values struct {
	Image struct {
		Repository string `json:"repository"`
		Tag        string `json:"tag"`
	} `json:"image"`
	ReplicaCount int    `json:"replicaCount"`
	ServiceType  string `json:"serviceType"`
	Service      struct {
		Name                  string `json:"name"`
		ClusterIP             string `json:"clusterIP"`
		ExternalTrafficPolicy string `json:"externalTrafficPolicy"`
	} `json:"service"`
	IsClusterService bool `json:"isClusterService"`
	RBAC             struct {
		Create bool `json:"create"`
	} `json:"rbac"`
	Env                 []corev1.EnvVar `json:"env"`
	K8sAppLabelOverride string          `json:"k8sAppLabelOverride"`
	ServiceAccount      struct {
		Create bool `json:"create"`
	} `json:"serviceAccount"`
	PriorityClassName         string                            `json:"priorityClassName"`
	RollingUpdate             appsv1.RollingUpdateDeployment    `json:"rollingUpdate"`
	PodDisruptionBudget       policyv1.PodDisruptionBudgetSpec  `json:"podDisruptionBudget"`
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints"`
	Tolerations               []corev1.Toleration               `json:"tolerations"`
	ReadinessProbe            corev1.Probe                      `json:"readinessProbe"`
	Resources                 corev1.ResourceRequirements       `json:"resources"`
	PodSecurityContext        corev1.PodSecurityContext         `json:"podSecurityContext"`
	SecurityContext           corev1.SecurityContext            `json:"securityContext"`
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
	ZoneFiles         []struct {
		Filename string `json:"filename"`
		Domain   string `json:"domain"`
		Contents string `json:"contents"`
	} `json:"zoneFiles"`
}

// server describes a server block in the values.
type server struct {
	Zones []struct {
		Zone   string `json:"zone"`
		UseTCP bool   `json:"use_tcp"`
	} `json:"zones"`
	Port        int `json:"port"`
	ServicePort int `json:"servicePort"`
	Plugins     []struct {
		Name        string `json:"name"`
		Parameters  string `json:"parameters"`
		ConfigBlock string `json:"configBlock"`
	} `json:"plugins"`
}

// block returns the server block that the chart builds from s.
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

// parseValues reads values.yaml. A key that values does not have, or one that is there twice, is an error.
func parseValues(text string) (v values, err error) {
	data, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return v, err
	}
	unknown, err := kjson.UnmarshalStrict(data, &v)
	return v, errors.Join(append(unknown, err)...)
}

// The chart builds the Corefile from the values, and the values have the volumes, the image and the address that it needs.
func TestClusterDNS(t *testing.T) {
	text, corefile := read(t, clusterDNS+"/values.yaml"), read(t, clusterDNS+"/Corefile")
	v, err := parseValues(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseValues(replaced(t, text, "extraVolumeMounts:", "extraVolumeMount:")); err == nil {
		t.Error("A misspelt key is not found")
	}
	checkValues(t, v, corefile)
	for _, constraint := range v.TopologySpreadConstraints {
		if constraint.LabelSelector.MatchLabels["k8s-app"] != v.K8sAppLabelOverride {
			t.Errorf("The spread is over pods with %v", constraint.LabelSelector)
		}
	}
	if !strings.Contains(v.Image.Tag, "alias") {
		t.Errorf("The image is %v, which may lack alias", v.Image)
	}
	if _, err := netip.ParseAddr(v.Service.ClusterIP); err != nil {
		t.Error(err)
	}
}

// The chart builds the Corefile of the servers with a store from the values, and the pods have the zone, the password, and the
// address of the store.
func TestShareValues(t *testing.T) {
	v, err := parseValues(read(t, shared+"/values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	corefile := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(read(t, shared+"/Corefile"), "")
	checkValues(t, v, corefile)
	checkStore(t, mustBuild(t, shared), corefile, v.Env)
	if diff := cmp.Diff(read(t, authoritative+"/example.com.zone"), v.ZoneFiles[0].Contents); diff != "" {
		t.Errorf("The zone (-) and that of the values (+):\n%s", diff)
	}
	if !strings.Contains(corefile, "/etc/coredns/"+v.ZoneFiles[0].Filename+"\n") {
		t.Errorf("The Corefile does not have %s", v.ZoneFiles[0].Filename)
	}
	if v.Servers[0].ServicePort != 53 || v.ServiceType != string(corev1.ServiceTypeLoadBalancer) ||
		v.Service.ExternalTrafficPolicy != string(corev1.ServiceExternalTrafficPolicyLocal) {
		t.Errorf("The Service is %v, %v", v.ServiceType, v.Service)
	}
	if !v.IsClusterService {
		t.Error("The pods use cluster DNS: the chart sets dnsPolicy only if isClusterService is true")
	}
	kustomization := find[*appsv1.Deployment](t, mustBuild(t, shared), "alias").Spec.Template.Spec.Containers[0]
	if image := v.Image.Repository + ":" + v.Image.Tag; image != kustomization.Image {
		t.Errorf("The image is %s, and %s without the chart", image, kustomization.Image)
	}
	if user := v.PodSecurityContext.RunAsUser; user == nil || *user != *kustomization.SecurityContext.RunAsUser {
		t.Errorf("The user is %v", user)
	}
}

// checkValues checks that the chart builds this Corefile from v, and that the volume of persist is there.
func checkValues(t *testing.T, v values, corefile string) {
	t.Helper()
	if len(v.Servers) != 1 {
		t.Fatalf("There are %d servers", len(v.Servers))
	}
	if diff := cmp.Diff(corefile, v.Servers[0].block()); diff != "" {
		t.Errorf("The Corefile (-) and the one that the chart builds from the values (+):\n%s", diff)
	}
	for port, plugin := range map[int32]string{8080: "health", 8181: "ready", 9153: "prometheus"} { // fixed in the chart
		checkListener(t, corefile, plugin, corev1.ContainerPort{Name: plugin, ContainerPort: port})
	}
	persist := regexp.MustCompile(`persist (\S+)`).FindStringSubmatch(corefile)
	mount, volume := v.ExtraVolumeMounts[0], v.ExtraVolumes[0]
	if mount.Name != volume.Name || volume.EmptyDir == nil || persist == nil || path.Dir(persist[1]) != mount.MountPath {
		t.Errorf("The file of persist, %v, is not in %v, %v", persist, mount, volume)
	}
}
