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

// server describes a server block in the values.
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
