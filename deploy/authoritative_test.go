package deploy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The replicas are spread and updated one by one, the Services lead to them, and Prometheus scrapes them. They do not transfer
// zones, because each has its own published serial.
func TestAuthoritative(t *testing.T) {
	checkDeployment(t, mustBuild(t, authoritative))
}

// checkDeployment checks the servers of a Deployment, and returns their Corefile.
func checkDeployment(t *testing.T, objects []runtime.Object) string {
	t.Helper()
	deployment := find[*appsv1.Deployment](t, objects, "alias")
	if update := deployment.Spec.Strategy.RollingUpdate; *update.MaxUnavailable != intstr.FromInt32(0) {
		t.Errorf("An update may stop %s replicas before others are ready", update.MaxUnavailable)
	}
	return checkServers(t, objects, *deployment.Spec.Replicas, deployment.Spec.Selector, &deployment.Spec.Template)
}

// checkServers checks the servers that a Deployment or a StatefulSet makes of a template, and returns their Corefile.
func checkServers(t *testing.T, objects []runtime.Object, replicas int32, selector *metav1.LabelSelector, template *corev1.PodTemplateSpec) string {
	t.Helper()
	pod := &template.Spec
	c := &pod.Containers[0]
	corefile := checkContainer(t, objects, pod, c)

	if replicas < 2 {
		t.Errorf("There are %d replicas", replicas)
	}
	if regexp.MustCompile(`(?m)^\s+transfer\b`).MatchString(corefile) {
		t.Error("The Corefile has transfer, but each replica has its own published serial")
	}
	own := labels.Set(template.Labels)
	selects := func(what string, s *metav1.LabelSelector) {
		t.Helper()
		checkSelector(t, what, s, own)
	}
	selects("workload", selector)
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
	scraped, err := metav1.LabelSelectorAsSelector(&monitor.Spec.Selector)
	if err != nil || !scraped.Matches(labels.Set(metrics.Labels)) || scraped.Matches(labels.Set(service.Labels)) {
		t.Errorf("The ServiceMonitor selects %v (%v)", scraped, err)
	}
	for _, endpoint := range monitor.Spec.Endpoints {
		if !slices.ContainsFunc(metrics.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == endpoint.Port }) {
			t.Errorf("The Service has no port %q", endpoint.Port)
		}
	}
	if len(monitor.Spec.Endpoints) != 1 {
		t.Errorf("There are %d endpoints to scrape", len(monitor.Spec.Endpoints))
	}
	return corefile
}

// checkSelector checks that a selector selects pods with these labels.
func checkSelector(t *testing.T, what string, s *metav1.LabelSelector, own labels.Set) {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil || selector.Empty() || !selector.Matches(own) {
		t.Errorf("The selector of the %s is %v (%v), the pods have the labels %v", what, selector, err, own)
	}
}
