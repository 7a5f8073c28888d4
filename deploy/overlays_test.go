package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// The servers with a store are those without, and share their answers in a Valkey.
func TestAuthoritativeShare(t *testing.T) {
	objects := mustBuild(t, shared)
	corefile := checkDeployment(t, objects)
	checkStore(t, objects, corefile, find[*appsv1.Deployment](t, objects, "alias").Spec.Template.Spec.Containers[0].Env)
	without := regexp.MustCompile(`(?m)^#.*\n|^\s+share .*\n`)
	if diff := cmp.Diff(without.ReplaceAllString(read(t, authoritative+"/Corefile"), ""), without.ReplaceAllString(corefile, "")); diff != "" {
		t.Errorf("The Corefile without a store (-) and with it (+) differ in more than share:\n%s", diff)
	}
}

// The servers with volumes are a StatefulSet with the same pods, but for the volume of each for the file of persist.
func TestAuthoritativeVolume(t *testing.T) {
	objects := mustBuild(t, withVolumes)
	corefile := checkVolumes(t, objects)
	if diff := cmp.Diff(read(t, authoritative+"/Corefile"), corefile); diff != "" {
		t.Errorf("The Corefile without volumes (-) and with them (+):\n%s", diff)
	}
}

// The servers with volumes can have a store too, as the page says.
func TestAuthoritativeVolumeAndShare(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("kubernetes")); err != nil {
		t.Fatal(err)
	}
	if text := read(t, page); !strings.Contains(text, "write `../authoritative-share` in place of `../authoritative` in its `kustomization.yaml`") {
		t.Error("The page does not say how to have both")
	}
	file := filepath.Join(dir, "authoritative-volume", "kustomization.yaml")
	write(t, file, replaced(t, read(t, file), "- ../authoritative\n", "- ../authoritative-share\n"))
	objects := mustBuild(t, filepath.Dir(file))
	corefile := checkVolumes(t, objects)
	checkStore(t, objects, corefile, find[*appsv1.StatefulSet](t, objects, "alias").Spec.Template.Spec.Containers[0].Env)
}

// checkVolumes checks the servers of a StatefulSet, and returns their Corefile.
func checkVolumes(t *testing.T, objects []runtime.Object) string {
	t.Helper()
	set := find[*appsv1.StatefulSet](t, objects, "alias")
	if slices.ContainsFunc(objects, func(o runtime.Object) bool {
		d, ok := o.(*appsv1.Deployment)
		return ok && d.Name == "alias"
	}) {
		t.Error("There is a Deployment too")
	}
	service := find[*corev1.Service](t, objects, set.Spec.ServiceName)
	if service.Spec.ClusterIP != corev1.ClusterIPNone {
		t.Errorf("Service %s has an address", service.Name)
	}
	template := set.Spec.Template.DeepCopy()
	for _, claim := range set.Spec.VolumeClaimTemplates { // as the controller does
		template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name},
		}})
	}
	for _, volume := range template.Spec.Volumes {
		if volume.EmptyDir != nil {
			t.Errorf("Volume %s is empty in each new pod", volume.Name)
		}
	}
	for _, constraint := range template.Spec.TopologySpreadConstraints {
		if slices.Contains(constraint.MatchLabelKeys, appsv1.DefaultDeploymentUniqueLabelKey) {
			t.Errorf("The spread over %s is by a label that only the pods of a Deployment have", constraint.TopologyKey)
		}
	}
	security, user := template.Spec.SecurityContext, template.Spec.Containers[0].SecurityContext.RunAsUser
	if security == nil || security.FSGroup == nil || *security.FSGroup != *user {
		t.Errorf("User %d cannot write to the volumes: %v", *user, security)
	}
	return checkServers(t, objects, *set.Spec.Replicas, set.Spec.Selector, template)
}

// checkStore checks the store, and that the servers reach it: with the password of a Secret that the page creates.
func checkStore(t *testing.T, objects []runtime.Object, corefile string, env []corev1.EnvVar) {
	t.Helper()
	store := find[*appsv1.Deployment](t, objects, "alias-store")
	service := find[*corev1.Service](t, objects, "alias-store")
	own := labels.Set(store.Spec.Template.Labels)
	checkSelector(t, "store", store.Spec.Selector, own)
	checkSelector(t, "Service of the store", &metav1.LabelSelector{MatchLabels: service.Spec.Selector}, own)
	if *store.Spec.Replicas != 1 || store.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		t.Errorf("There may be several stores: %v, %v", *store.Spec.Replicas, store.Spec.Strategy)
	}
	pod := &store.Spec.Template.Spec
	c := &pod.Containers[0]
	checkHardened(t, c)
	port := service.Spec.Ports[0]
	containerPort(t, c, port.TargetPort.StrVal)
	if want := fmt.Sprintf("share redis://:{$STORE_PASSWORD}@{$ALIAS_STORE_SERVICE_HOST}:%d\n", port.Port); !strings.Contains(corefile, want) {
		t.Errorf("The Corefile does not have %q", want)
	}
	i := slices.Index(c.Command, "--maxmemory")
	most, err := resource.ParseQuantity(strings.TrimSuffix(c.Command[i+1], "mb") + "M")
	if err != nil || i < 0 || most.Cmp(*c.Resources.Limits.Memory()) >= 0 {
		t.Errorf("The store may use %v (%v), more than %v", most, err, c.Resources.Limits.Memory())
	}

	secret := pod.Volumes[0].Secret
	mount := c.VolumeMounts[0]
	if mount.Name != pod.Volumes[0].Name || c.Command[1] != filepath.Join(mount.MountPath, secret.Items[0].Path) {
		t.Errorf("The store reads %s, the Secret is at %s", c.Command[1], mount.MountPath)
	}
	reference := env[slices.IndexFunc(env, func(v corev1.EnvVar) bool { return v.Name == "STORE_PASSWORD" })].ValueFrom.SecretKeyRef
	if secret.SecretName != reference.Name {
		t.Errorf("The passwords are those of the Secrets %s and %s", secret.SecretName, reference.Name)
	}
	create := fmt.Sprintf("kubectl -n dns create secret generic %s --from-literal=%s=$password --from-literal=%s=\"requirepass $password\"\n",
		reference.Name, reference.Key, secret.Items[0].Key)
	if !strings.Contains(read(t, page), create) {
		t.Errorf("The page does not have the command %s", create)
	}
}
